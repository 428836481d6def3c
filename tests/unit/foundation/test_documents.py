"""What the documents point to is there: pages and files, make targets, commands."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from proserve_cli.main import app

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "charts").glob("*/README.md"))]
FOLDERS = "charts|cli|core|docs|engine-image|examples|gateway|lab|operator|requirements|scripts|tests"


def links() -> Iterator[Path]:
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            if "://" not in link:
                yield document.parent / link


def code() -> Iterator[str]:
    """What stands in backticks, and the lines of blocks for a shell."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for block in re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            yield from block.splitlines()
        yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def found(pattern: str) -> set[str]:
    """What a pattern finds in code; there are dozens of everything that is looked for here."""
    matches = {match for text in code() for match in re.findall(pattern, text)}
    assert len(matches) > 10
    return matches


def test_links_lead_to_a_file() -> None:
    assert len(list(links())) > 50
    assert [link for link in links() if not link.exists()] == []


def test_paths_that_are_named_exist() -> None:
    named = {path for path in found(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./-]+") if "NAME" not in path}
    assert {path for path in named if not any(ROOT.glob(f"{path.rstrip('./')}*"))} == set()


def test_make_has_the_targets() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert found(r"^(?:\w+=\S+ )*make ([a-z][\w-]*)") <= targets


def test_proserve_has_the_commands() -> None:
    unknown = {words for words in found(r"(?:^|[;&|(] ?)proserve ([a-z][a-z -]*)") if not known(words.split())}
    assert unknown == set()


@pytest.mark.parametrize("words", ["bunch", "bench nothing"])
def test_a_command_that_is_not_there_is_found_out(words: str) -> None:
    assert not known(words.split())


def known(words: list[str]) -> bool:
    """Whether `proserve` has the command that words begin with."""
    command: Any = typer.main.get_command(app)
    for word in words:
        commands = getattr(command, "commands", None)
        if commands is None or word.startswith("-"):
            break
        if word not in commands:
            return False
        command = commands[word]
    return True
