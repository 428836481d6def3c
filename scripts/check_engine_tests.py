"""Fail unless the tests on real vLLM and on a real Kubernetes ran: some of each, and none of them skipped.

A test run that skips what it cannot do looks green; this reads pytest's JUnit file and says otherwise.
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

PREFIXES = ("tests.engine.", "tests.apiserver.", "tests.cluster.")


def problems(junit: str) -> list[str]:
    """What is wrong with these tests of a run; empty if they all ran."""
    found = []
    for prefix in PREFIXES:
        cases = [c for c in ElementTree.fromstring(junit).iter("testcase") if c.get("classname", "").startswith(prefix)]
        if not cases:
            found.append(f"none of {prefix.removesuffix('.')} ran")
        found += [f"{c.get('classname')}::{c.get('name')} was skipped" for c in cases if c.find("skipped") is not None]
    return found


def main() -> int:
    found = problems(Path(sys.argv[1]).read_text())
    for problem in found:
        print(f"tests on real programs: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
