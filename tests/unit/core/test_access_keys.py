"""Key files: what they may hold, and whom the keys let in."""

import pytest

from proserve_core.access_keys import AccessKeysError, bearer_key, opens, parse_keys

OLD, NEW = "0123456789abcdef", "fedcba9876543210"


def test_every_key_of_a_file_opens_and_nothing_else_does() -> None:
    keys = parse_keys(f"{NEW}\n\n  {OLD}\n")
    assert keys == (NEW, OLD)
    assert [opens(keys, given) for given in (NEW.encode(), OLD.encode())] == [True, True]
    assert [opens(keys, given) for given in (None, b"", OLD[:-1].encode(), b"\xff" * 16)] == [False] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("\n \n", "holds no key"),
        (f"{OLD}\ntoo-short\n", "line 2: the key has 9 characters, it must have at least 16"),
        (f"{OLD} {NEW}\n", "line 1: expected a key of printable ASCII characters without spaces"),
        ("schlüsselschlüssel\n", "line 1: expected a key of printable ASCII"),
    ],
)
def test_unusable_files_are_explained_without_showing_a_key(text: str, message: str) -> None:
    with pytest.raises(AccessKeysError, match=message) as caught:
        parse_keys(text)
    assert not any(word in str(caught.value) for word in text.split())


@pytest.mark.parametrize(
    ("header", "key"),
    [(b"Bearer k", b"k"), (b"bearer  k ", b"k"), (b"Basic k", None), (b"Bearer", None), (b"", None)],
)
def test_bearer_key_is_taken_from_the_header(header: bytes, key: bytes | None) -> None:
    assert bearer_key(header) == key
