"""Writes the generated parts of docs/ and of the charts' READMEs.

That is everything between a `begin generated: NAME` and an `end generated` comment.

And docs/openapi.json as a whole. `make docs` runs it; with `--check` it only says what is out of date.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from chart_values_table import values_markdown
from proserve_core.resources.conditions import conditions_markdown
from proserve_core.resources.field_tables import reference_markdown
from proserve_gateway.http.openapi import openapi
from proserve_gateway.seeing.metrics_docs import metrics_markdown
from proserve_operator.metrics import metrics_markdown as operator_metrics_markdown

ROOT = Path(__file__).resolve().parent.parent
OPENAPI = ROOT / "docs" / "openapi.json"
PARTS: Mapping[str, Callable[[], str]] = {
    "chart-values": values_markdown,
    "gateway-metrics": metrics_markdown,
    "operator-metrics": operator_metrics_markdown,
    "conditions": conditions_markdown,
    "resources": reference_markdown,
}

_BLOCK = re.compile(r"(<!-- begin generated: ([\w-]+)[^\n]*-->\n).*?(<!-- end generated -->)", re.DOTALL)


def current(text: str) -> str:
    """`text` with each generated part made anew."""
    return _BLOCK.sub(lambda block: f"{block[1]}\n{PARTS[block[2]]()}\n{block[3]}", text)


def openapi_text() -> str:
    """The data port's OpenAPI document."""
    return f"{json.dumps(openapi(), indent=2)}\n"


def main(arguments: list[str]) -> int:
    pages = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("charts/*/README.md")])
    wanted = {page: current(page.read_text()) for page in pages} | {OPENAPI: openapi_text()}
    outdated = {page: text for page, text in wanted.items() if not page.exists() or page.read_text() != text}
    for page, text in outdated.items():
        if "--check" in arguments:
            print(f"{page.relative_to(ROOT)} is out of date: run make docs")
        else:
            page.write_text(text)
            print(f"wrote {page.relative_to(ROOT)}")
    return 1 if outdated and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
