"""Results are stale when code that decides them has changed, and only then."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proserve_lab.report import fingerprint
from proserve_lab.report.fingerprint import code_hash


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with a policy that imports a helper, and a module that it does not import."""
    folder = tmp_path / "decided_by_code"
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "policy.py").write_text("from decided_by_code.helper import half\nx = half(2)\n", encoding="utf-8")
    (folder / "helper.py").write_text('def half(x):\n    """Half."""\n    return x / 2\n', encoding="utf-8")
    (folder / "other.py").write_text("y = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(fingerprint, "OWN", ("decided_by_code",))
    yield folder
    for name in [name for name in sys.modules if name.startswith("decided_by_code")]:
        del sys.modules[name]


def policy_hash() -> str:
    for function in (fingerprint._imports, fingerprint._source, fingerprint._code):
        function.cache_clear()
    return code_hash(["decided_by_code.policy"])


def test_a_change_of_imported_code_changes_the_hash(package: Path) -> None:
    before = policy_hash()
    (package / "helper.py").write_text("def half(x):\n    return x // 2\n", encoding="utf-8")
    assert policy_hash() != before


def test_other_modules_comments_and_docstrings_do_not_count(package: Path) -> None:
    before = policy_hash()
    (package / "other.py").write_text("y = 2\n", encoding="utf-8")
    (package / "helper.py").write_text(
        '"""Helps."""\n\n\ndef half(x):\n    """One\n\n    half.\n    """\n    # halves\n    return x / 2\n',
        encoding="utf-8",
    )
    assert policy_hash() == before


def test_policies_that_share_only_the_simulator_have_hashes_of_their_own() -> None:
    modules = ("fcfs", "edf", "recoverable_gain", "sliding_serve.policy")
    hashes = {code_hash(["proserve_core.replica", f"proserve_core.batching.{name}"]) for name in modules}
    assert len(hashes) == len(modules)
