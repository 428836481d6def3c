"""Sessions have a nice value only where the kernel groups them; elsewhere measurements must run all the same."""

import os
from pathlib import Path

import pytest

from proserve_cli import process_priority
from proserve_cli.process_priority import NICE, preferred, session_nice


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that stands for this process's session; raising priorities is allowed."""
    file = tmp_path / "autogroup"
    monkeypatch.setattr(process_priority, "session_file", lambda _pid: file)
    monkeypatch.setattr(os, "setpriority", lambda *_arguments: None)
    return file


@pytest.mark.parametrize(
    ("content", "nice"), [("/autogroup-17 nice 0\n", 0), ("/autogroup-17 nice -5\n", -5), ("", None), ("odd", None)]
)
def test_nice_value_of_a_session(session: Path, content: str, nice: int | None) -> None:
    session.write_text(content)
    assert session_nice(session) == nice


def test_session_without_a_file_has_no_nice_value(session: Path) -> None:
    assert session_nice(session) is None


def test_session_is_raised_and_put_back(session: Path) -> None:
    session.write_text("/autogroup-17 nice 3\n")
    with preferred() as raised:
        assert raised
        assert session.read_text() == str(NICE)
    assert session.read_text() == "3"


def test_empty_session_file_is_left_alone(session: Path) -> None:
    session.write_text("")
    with preferred() as raised:
        assert raised
    assert session.read_text() == ""


def test_priority_that_may_not_be_raised_is_told(session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    session.write_text("/autogroup-17 nice 3\n")
    with preferred() as raised:
        assert not raised
    assert session.read_text() == "/autogroup-17 nice 3\n"
