"""The table of conditions in docs/operator.md is made from the code."""

import re
from pathlib import Path

from proserve_core.resources.conditions import CONDITIONS, Reason, conditions_markdown

PAGE = (Path(__file__).parents[4] / "docs" / "operator.md").read_text()


def test_generated_part_of_the_page_is_current() -> None:
    generated = re.search(r"<!-- begin generated: conditions [^\n]*\n\n(.*?)\n<!-- end generated -->", PAGE, re.DOTALL)
    assert generated is not None
    assert generated[1] == conditions_markdown(), "run: make docs"


def test_every_reason_belongs_to_a_condition_and_says_something() -> None:
    used = {reason for types in CONDITIONS.values() for each in types for reason in each.reasons}
    assert used == set(Reason)
    for types in CONDITIONS.values():
        for each in types:
            assert all(text.endswith(".") for text in each.reasons.values()), each.name
