"""Plain HTTP through `proserve up`: what a client gets, and what the gateway makes of it."""

import time
from typing import Any

import httpx
import pytest

from running_proserve import RunningProserve

HIGH, LOW = "sk-demo-interactive", "sk-demo-batch"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


def client(running: RunningProserve, key: str = HIGH) -> httpx.Client:
    return httpx.Client(base_url=running.http, headers={"authorization": f"Bearer {key}"}, timeout=120)


def status(running: RunningProserve) -> Any:
    return httpx.get(f"{running.admin}/status", timeout=120).json()


def until_idle(running: RunningProserve) -> None:
    end_s = time.monotonic() + 120
    while any(engine["running"] or engine["waiting"] or engine["in_flight"] for engine in status(running)["engines"]):
        assert time.monotonic() < end_s, "requests are still at the engines"
        time.sleep(0.05)


def test_an_answer_says_which_class_and_engine_served_it(shared: RunningProserve) -> None:
    with client(shared) as http:
        reply = http.post("/v1/chat/completions", json=CHAT)
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] == 8
    assert reply.headers["x-proserve-class"] == "interactive"
    assert reply.headers["x-proserve-engine"].startswith("tiny-")
    assert reply.headers["x-proserve-request-id"]


def test_output_that_is_no_screen_holds_no_key(shared: RunningProserve) -> None:
    with client(shared) as http:
        http.post("/v1/chat/completions", json=CHAT)
    assert "send a request (KEY: entry interactive of Secret " in shared.text
    assert HIGH not in shared.text
    assert LOW not in shared.text


def test_models_are_listed(shared: RunningProserve) -> None:
    with client(shared) as http:
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["tiny"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"model": "tiny", "messages": [', 400),
        (b"[]", 400),
        (b'{"model": 7, "messages": []}', 400),
        (b'{"model": "huge", "messages": [{"role": "user", "content": "x"}]}', 404),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": "many"}', 400),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "n": 2}', 400),
        (b'{"model": "tiny", "pad": "' + b"x" * (5 << 20) + b'"}', 413),
    ],
    ids=["cut off", "not an object", "wrong type", "unknown model", "wrong number", "several answers", "too large"],
)
def test_bad_bodies_are_openai_errors(shared: RunningProserve, body: bytes, code: int) -> None:
    with client(shared) as http:
        reply = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == code
    error = reply.json()["error"]
    assert error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("header", [{}, {"authorization": "Bearer sk-wrong"}, {"authorization": "Basic eDp5"}])
def test_without_a_good_key_nothing_is_served(shared: RunningProserve, header: dict[str, str]) -> None:
    reply = httpx.post(f"{shared.http}/v1/chat/completions", json=CHAT, headers=header, timeout=120)
    assert reply.status_code == 401
    assert "sk-wrong" not in reply.text


def test_headers_and_body_cannot_raise_the_class(shared: RunningProserve) -> None:
    forged = {**CHAT, "priority": -10, "vllm_xargs": {"proserve_class": "interactive", "proserve_weight": 1000}}
    with client(shared, LOW) as http:
        reply = http.post("/v1/chat/completions", json=forged, headers={"x-proserve-class": "interactive"})
    assert reply.status_code == 200
    assert reply.headers["x-proserve-class"] == "batch"


def test_gain_is_accounted_by_class(shared: RunningProserve) -> None:
    before = status(shared)["classes"]
    with client(shared) as high, client(shared, LOW) as low:
        high.post("/v1/chat/completions", json=CHAT).raise_for_status()
        low.post("/v1/chat/completions", json=CHAT).raise_for_status()
    after = status(shared)["classes"]
    for name, worth in (("interactive", 8 * 4), ("batch", 8 * 1)):
        assert after[name]["requests"] == before[name]["requests"] + 1
        assert after[name]["earnable"] == before[name]["earnable"] + worth
    metrics = httpx.get(f"{shared.admin}/metrics", timeout=120).text
    assert 'proserve_gateway_gain_earned_total{class="interactive",tenant="chat"}' in metrics


def test_a_client_that_leaves_is_aborted_at_its_engine(shared: RunningProserve) -> None:
    until_idle(shared)
    long = {**CHAT, "max_tokens": 8000, "stream": True}
    with client(shared) as http:
        with http.stream("POST", "/v1/chat/completions", json=long) as reply:
            # Kept: a dropped iterator closes the reply.
            lines = reply.iter_lines()
            assert next(lines).startswith("data: ")
            end_s = time.monotonic() + 50  # the answer takes longer
            while not any(engine["running"] for engine in status(shared)["engines"]):
                assert time.monotonic() < end_s
                time.sleep(0.02)
        until_idle(shared)


def test_engines_answer_only_their_gateway(shared: RunningProserve) -> None:
    engines = httpx.get(f"{shared.admin}/status", timeout=120).json()["engines"]
    assert engines
    for engine in engines:
        for url in (f"{engine['url']}/v1/models", f"{engine['capacity_url']}/capacity", f"{engine['url']}/detokenize"):
            refused = httpx.get(url, timeout=120)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_engine_key")
