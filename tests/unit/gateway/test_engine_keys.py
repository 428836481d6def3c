"""Keys for engines in pods: the first of the Secret that the pool names, and the last right one when that goes."""

import base64
from typing import Any

import pytest

from proserve_gateway.configuration.engine_keys import EngineKeys
from proserve_gateway.fleet.target import EngineTarget
from resource_builders import engine_pool, parse

OLD, NEW = "old-key-of-engines", "new-key-of-engines"
(POOL,) = parse(engine_pool(engine={"keys": {"secretKeyRef": {"name": "keys", "key": "ours"}}})).engine_pools
(OPEN_POOL,) = parse(engine_pool()).engine_pools


def secret(text: str, entry: str = "ours") -> dict[tuple[str, str], Any]:
    return {("default", "keys"): {"data": {entry: base64.b64encode(text.encode()).decode()}}}


def sent(keys: EngineKeys) -> str | None:
    (target,) = keys.with_keys([EngineTarget(name="a", pool="tiny", base_url="http://10.0.0.1:8000")])
    return target.api_key


def test_first_key_is_sent_and_follows_the_secret() -> None:
    keys = EngineKeys()
    assert keys.read([POOL], secret(f"{OLD}\n{NEW}\n")) == {}
    assert sent(keys) == OLD
    assert keys.read([POOL], secret(f"{NEW}\n{OLD}\n")) == {}
    assert sent(keys) == NEW


@pytest.mark.parametrize(
    ("secrets", "said"),
    [
        ({}, "there is no Secret 'keys' in namespace default; make it"),
        (secret(NEW, "other"), "entry 'ours' of Secret 'keys' is not there; add it"),
        (secret("short"), "entry 'ours' of Secret 'keys': line 1: the key has 5 characters"),
        (secret(""), "entry 'ours' of Secret 'keys': holds no key"),
        ({("default", "keys"): {"data": {"ours": "%"}}}, "entry 'ours' of Secret 'keys' is no text"),
        ({("default", "keys"): {"type": "kubernetes.io/tls"}}, "Secret 'keys' has type 'kubernetes.io/tls', and keys"),
        ({("default", "keys"): {}}, "entry 'ours' of Secret 'keys' is not there"),
    ],
)
def test_secret_that_is_of_no_use_is_told_and_the_last_right_key_is_sent_on(secrets: Any, said: str) -> None:
    keys = EngineKeys()
    problems = keys.read([POOL], secrets)
    assert said in problems["default", "tiny"]
    assert problems["default", "tiny"].endswith("until then engines refuse all requests")
    assert sent(keys) is None
    keys.read([POOL], secret(OLD))
    assert keys.read([POOL], secrets)["default", "tiny"].endswith("until then the last right key is sent on")
    assert sent(keys) == OLD


def test_engines_that_still_ask_get_the_key_of_a_pool_that_names_none_any_more() -> None:
    keys = EngineKeys()
    keys.read([POOL], secret(OLD))
    assert keys.read([OPEN_POOL], {}) == {}
    assert sent(keys) == OLD
    keys.read([], {})
    assert sent(keys) is None


def test_key_is_in_no_message() -> None:
    problems = EngineKeys().read([POOL], secret(f"{OLD} {NEW}"))
    assert OLD not in problems["default", "tiny"]
