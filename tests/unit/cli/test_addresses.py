"""HOST:PORT options."""

import pytest
import typer

from proserve_cli.addresses import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address(host="127.0.0.1", port=8080)),
        ("[::1]:0", Address(host="::1", port=0)),
        (":80", Address(host="0.0.0.0", port=80)),
    ],
)
def test_addresses_are_read(text: str, address: Address) -> None:
    assert parse_address(text, option="--http") == address


@pytest.mark.parametrize("text", ["", "8080", "localhost", "localhost:", "localhost:http", "h:65536", "h:-1", "::1:80"])
def test_other_texts_are_refused_with_the_value(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"expected HOST:PORT|in brackets") as caught:
        parse_address(text, option="--grpc")
    assert "Invalid value for '--grpc'" in caught.value.format_message()
    assert repr(text) in caught.value.format_message()


def test_an_address_reads_as_it_is_written() -> None:
    for text in ("127.0.0.1:8080", "[::1]:80"):
        assert str(parse_address(text, option="--http")) == text
