"""The file of results survives interruptions."""

from pathlib import Path

import pytest

from proserve_lab.report.cell_result import CellResult, ResultStore, StoreError


def result(key: str, tdg_ratio: float = 0.5) -> CellResult:
    return CellResult(key=key, fingerprint="f", rate=1.0, requests=10, tdg_ratio=tdg_ratio)


def test_the_last_result_of_a_cell_counts(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results" / "r.jsonl")
    assert store.load() == {}
    for item in (result("a"), result("b"), result("a", 0.9)):
        store.append(item)
    assert store.load() == {"a": result("a", 0.9), "b": result("b")}


def test_a_line_that_was_cut_off_is_passed_over_and_written_over(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "r.jsonl")
    store.append(result("a"))
    with store.path.open("ab") as file:
        file.write(b'{"key":"b","finger')
    assert list(store.load()) == ["a"]
    store.append(result("c"))
    assert list(store.load()) == ["a", "c"]


def test_a_damaged_line_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "r.jsonl")
    store.path.write_bytes(b'{"key":1}\n')
    with pytest.raises(StoreError, match=r"r\.jsonl:1: not a result .*remove the line"):
        store.load()


def test_rewriting_leaves_one_line_per_cell(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "r.jsonl")
    store.append(result("a"))
    store.append(result("a", 0.9))
    store.rewrite(store.load().values())
    assert len(store.path.read_bytes().splitlines()) == 1
    assert store.load() == {"a": result("a", 0.9)}
