"""Which path a request line asks for."""

import pytest

from proserve_gateway.http.request_target import path_of


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v1/models", "/v1/models"),
        (b"/v1/models/a%2Fb?x=http://y/z", "/v1/models/a/b"),
        (b"http://host/v1/models?x=1", "/v1/models"),
        (b"HTTPS://[::1]:8443/v1/models", "/v1/models"),
        (b"http://host", "/"),
        (b"http://host?/v1/models", "/"),
        (b"*", "*"),
    ],
)
def test_query_and_host_are_no_part_of_the_path(target: bytes, path: str) -> None:
    assert path_of(target) == path


@pytest.mark.parametrize(
    "target",
    [b"http:///v1/models", b"http://user@host/v1/models", b"ftp://host/v1/models", b"//host/v1/models", b"x/v1/models"],
)
def test_target_that_names_no_plain_host_asks_for_nothing_that_is_served(target: bytes) -> None:
    assert path_of(target) == target.decode()
