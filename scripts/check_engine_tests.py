"""Fail unless the tests on real vLLM ran: some of them, and none of them skipped.

A test run that skips what it cannot do looks green; this reads pytest's JUnit file and says otherwise.
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

PREFIX = "tests.engine."


def problems(junit: str) -> list[str]:
    """What is wrong with the engine tests of a run; empty if they all ran."""
    cases = [c for c in ElementTree.fromstring(junit).iter("testcase") if c.get("classname", "").startswith(PREFIX)]
    if not cases:
        return ["none ran"]
    return [f"{c.get('classname')}::{c.get('name')} was skipped" for c in cases if c.find("skipped") is not None]


def main() -> int:
    found = problems(Path(sys.argv[1]).read_text())
    for problem in found:
        print(f"engine tests: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
