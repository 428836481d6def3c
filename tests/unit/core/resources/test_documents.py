"""YAML texts into documents."""

import pytest

from proserve_core.resources import ResourceErrors, parse_resources
from proserve_core.resources.documents import read_yaml


def lines(text: str) -> list[str]:
    return [str(error) for error in read_yaml("file.yaml", text).errors]


def test_documents_are_numbered_in_the_file_and_empty_ones_are_skipped() -> None:
    read = read_yaml("file.yaml", "a: 1\n---\n# nothing here\n---\nb: 2\n")
    assert [(document.source, document.data) for document in read.documents] == [
        ("file.yaml#1", {"a": 1}),
        ("file.yaml#3", {"b": 2}),
    ]


def test_duplicate_key_is_refused_with_its_place() -> None:
    assert lines("a: 1\nspec:\n  weight: 1\n  weight: 2\n") == [
        "file.yaml#1 (line 4, column 3): the key 'weight' is there twice; remove one of the two"
    ]


def test_all_duplicate_keys_of_all_documents_are_listed() -> None:
    assert len(lines("a: 1\na: 2\nb: {c: 1, c: 2}\n---\nd: 1\nd: 2\n")) == 3


def test_merged_key_may_be_overridden() -> None:
    text = "base: &base {a: 1, b: 2}\nchild:\n  <<: *base\n  a: 3\n"
    (document,) = read_yaml("file.yaml", text).documents
    assert document.data == {"base": {"a": 1, "b": 2}, "child": {"a": 3, "b": 2}}


def test_syntax_error_names_line_and_column_and_keeps_earlier_documents() -> None:
    read = read_yaml("file.yaml", "a: 1\n---\nb: [1, 2\nc: 3\n")
    assert [document.data for document in read.documents] == [{"a": 1}]
    (error,) = read.errors
    assert error.source == "file.yaml (line 4, column 2)"
    assert "not YAML" in error.problem


def test_explicit_tag_is_refused() -> None:
    assert lines("a: !!python/name:os.system x\n") == [
        "file.yaml#1 (line 1, column 4): has the tag 'tag:yaml.org,2002:python/name:os.system'; "
        "remove it; tags are not used here"
    ]


def test_date_stays_a_string() -> None:
    (document,) = read_yaml("file.yaml", "a: 2026-01-01\n").documents
    assert document.data == {"a": "2026-01-01"}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n---\n"])
def test_file_without_documents_is_refused(text: str) -> None:
    assert lines(text) == ["file.yaml: holds no documents; add resources or leave the file out"]


@pytest.mark.parametrize(
    "text", ["a: 0x_\n", "a: " + "9" * 5000 + "\n", "[" * 2000, "a: \x00\n", "a: *b\n", "? [a]\n: 1\n"]
)
def test_unreadable_text_is_an_error_not_a_crash(text: str) -> None:
    read = read_yaml("file.yaml", text)
    assert not read.complete
    assert len(read.errors) == 1


def test_syntax_error_does_not_show_what_a_secret_holds() -> None:
    text = "kind: Secret\nstringData:\n  key: 'sk-very-secret\n  other: @sk-very-secret\n"
    assert "sk-very" not in " ".join(lines(text))


def test_errors_of_several_files_are_listed_together() -> None:
    with pytest.raises(ResourceErrors) as refused:
        parse_resources({"one.yaml": "a: [", "two.yaml": "kind: Pod\napiVersion: v1\n", "three.yaml": ""})
    assert [error.source.split()[0] for error in refused.value.errors] == ["one.yaml", "three.yaml", "two.yaml#1"]
