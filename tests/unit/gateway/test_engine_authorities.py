"""Who signs certificates of engines in pods: `ca.crt` of the pool's Secret, and for a while the one before."""

import asyncio
import base64
from typing import Any

import pytest

from proserve_gateway.configuration.engine_authorities import MOST_REPLACED, OVERLAP_S, EngineAuthorities
from proserve_gateway.configuration.kubernetes import KubernetesSource
from proserve_gateway.fleet.target import EngineTarget, TlsPeer
from resource_builders import engine_pool, parse
from tls_files import ca

(POOL,) = parse(engine_pool(engine={"tls": {"secretName": "engine-tls"}})).engine_pools
(PLAIN_POOL,) = parse(engine_pool()).engine_pools
NAME = "engine-tiny.default.svc"
FIRST, SECOND = ca("first"), ca("second")


def secret(text: bytes, entry: str = "ca.crt", kind: str = "kubernetes.io/tls") -> dict[tuple[str, str], Any]:
    return {("default", "engine-tls"): {"type": kind, "data": {entry: base64.b64encode(text).decode()}}}


def trusted(authorities: EngineAuthorities) -> str | None:
    """By a connection to an engine with TLS."""
    target = EngineTarget(name="a", pool="tiny", base_url="https://10.0.0.1:8000", peer=TlsPeer(server_name=NAME))
    (given,) = authorities.with_authorities([target])
    assert given.peer is not None
    assert given.peer.server_name == NAME
    return given.peer.authority


def test_engine_is_trusted_by_the_authority_of_its_pool() -> None:
    authorities = EngineAuthorities()
    assert trusted(authorities) == ""
    assert authorities.read([POOL], secret(FIRST), now_s=0.0) == {}
    assert trusted(authorities) == FIRST.decode()
    assert authorities.next_change_s is None


def test_replaced_authority_is_trusted_until_engines_have_their_new_files() -> None:
    authorities = EngineAuthorities()
    authorities.read([POOL], secret(FIRST), now_s=0.0)
    authorities.read([POOL], secret(SECOND), now_s=5.0)
    assert trusted(authorities) == (SECOND + FIRST).decode()
    assert authorities.next_change_s == 5.0 + OVERLAP_S
    authorities.read([POOL], secret(SECOND), now_s=5.0 + OVERLAP_S)
    assert trusted(authorities) == SECOND.decode()
    assert authorities.next_change_s is None


def test_authority_that_is_replaced_twice_in_short_order_keeps_its_time() -> None:
    authorities = EngineAuthorities()
    for now_s, text in enumerate((FIRST, SECOND, SECOND + FIRST)):
        authorities.read([POOL], secret(text), now_s=float(now_s))
    assert trusted(authorities) == (SECOND + FIRST + SECOND + FIRST).decode()
    assert authorities.next_change_s == 1.0 + OVERLAP_S
    authorities.read([POOL], secret(SECOND + FIRST), now_s=1.0 + OVERLAP_S)
    assert trusted(authorities) == (SECOND + FIRST + SECOND).decode()
    assert authorities.next_change_s == 2.0 + OVERLAP_S


def test_authority_that_comes_back_is_trusted_once() -> None:
    authorities = EngineAuthorities()
    for now_s in range(20):
        authorities.read([POOL], secret((FIRST, SECOND)[now_s % 2]), now_s=float(now_s))
    assert trusted(authorities) == (SECOND + FIRST).decode()


def test_secret_that_changes_all_the_time_does_not_make_ever_more_trusted() -> None:
    authorities = EngineAuthorities()
    for number in range(1, 12):
        authorities.read([POOL], secret(FIRST * number), now_s=float(number))
    assert (trusted(authorities) or "").count("BEGIN") == sum(range(11 - MOST_REPLACED, 12))


@pytest.mark.looptime
async def test_replaced_authority_is_trusted_no_longer_although_nothing_happens() -> None:
    source, clock = KubernetesSource(namespaces=("default",)), asyncio.get_running_loop().time
    began_s = clock()
    for text in (FIRST, SECOND, SECOND):
        source._objects["Certificate"] = secret(text)
        source._read_secrets([POOL])
        await asyncio.sleep(100)
    await asyncio.wait_for(source._changed.wait(), 10 * OVERLAP_S)
    assert clock() - began_s == pytest.approx(100 + OVERLAP_S)
    source._changed.clear()
    source._read_secrets([POOL])
    assert trusted(source._authorities) == SECOND.decode()
    # Nor is anything looked at again and again.
    await asyncio.sleep(10 * OVERLAP_S)
    assert not source._changed.is_set()


def test_secret_may_hold_two_authorities_for_gateways_that_start_while_one_replaces_the_other() -> None:
    authorities = EngineAuthorities()
    assert authorities.read([POOL], secret(SECOND + FIRST), now_s=0.0) == {}
    assert trusted(authorities) == (SECOND + FIRST).decode()


@pytest.mark.parametrize(
    ("secrets", "said"),
    [
        ({}, "there is no Secret 'engine-tls' in namespace default; make it"),
        (secret(FIRST, kind="Opaque"), "Secret 'engine-tls' has type 'Opaque', expected kubernetes.io/tls"),
        (secret(FIRST, "tls.crt"), "Secret 'engine-tls' has no entry 'ca.crt'; add the certificate of who signed"),
        (secret(b""), "Secret 'engine-tls' has no entry 'ca.crt'"),
        (secret(b"no certificate"), "entry 'ca.crt' of Secret 'engine-tls' is no certificate in PEM form"),
        (secret("\u00e9".encode()), "entry 'ca.crt' of Secret 'engine-tls' is no certificate in PEM form"),
    ],
)
def test_secret_that_is_of_no_use_is_told_and_the_last_right_authority_stays(secrets: Any, said: str) -> None:
    authorities = EngineAuthorities()
    problem = authorities.read([POOL], secrets, now_s=0.0)["default", "tiny"]
    assert problem.startswith(f"spec.engine.tls.secretName: {said}")
    assert problem.endswith("until then its engines can't be reached")
    assert trusted(authorities) == ""
    authorities.read([POOL], secret(FIRST), now_s=1.0)
    problem = authorities.read([POOL], secrets, now_s=2.0)["default", "tiny"]
    assert problem.endswith("until then the last right one is trusted")
    assert trusted(authorities) == FIRST.decode()


def test_engines_that_still_speak_tls_are_reached_when_their_pool_gives_it_up() -> None:
    authorities = EngineAuthorities()
    authorities.read([POOL], secret(FIRST), now_s=0.0)
    assert authorities.read([PLAIN_POOL], {}, now_s=1.0) == {}
    assert trusted(authorities) == FIRST.decode()
    authorities.read([], {}, now_s=2.0)
    assert trusted(authorities) == ""


def test_engines_without_tls_are_as_they_were() -> None:
    authorities = EngineAuthorities()
    authorities.read([POOL], secret(FIRST), now_s=0.0)
    plain = EngineTarget(name="a", pool="tiny", base_url="http://10.0.0.1:8000")
    assert list(authorities.with_authorities([plain])) == [plain]
