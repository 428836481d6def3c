"""The emulated engine over HTTP, in this process, mostly sped up so far that nothing has to be waited for."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
import uvicorn

from proserve_core.batching import BatchPlan, EngineState
from proserve_core.batching.fcfs import Fcfs
from proserve_core.blocks.settings import KvOffload, kv_offload
from proserve_core.capacity import CapacitySnapshot, decode_snapshot
from proserve_core.facts import encode_facts
from proserve_core.objectives import PriorityClass, ServiceObjectives
from proserve_core.replica import Replica
from proserve_engine.emulator.app import EmulatorApp
from proserve_engine.emulator.clockwork import Clockwork
from proserve_engine.emulator.jobs import completion_job
from proserve_engine.emulator.server import EmulatorOptions, build_replica


@contextlib.asynccontextmanager
async def emulator(
    *, speed: float = 50.0, kv_blocks: int | None = None, kv_offload: KvOffload | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    options = EmulatorOptions(
        calibration="h100-llama-3.1-8b", policy="fcfs", model="tiny", speed=speed, kv_blocks=kv_blocks,
        kv_offload=kv_offload,
    )  # fmt: skip
    clockwork = Clockwork(build_replica(options), time.monotonic)
    config = uvicorn.Config(EmulatorApp(clockwork, model="tiny"), lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        engine = asyncio.create_task(clockwork.run())
        serving = asyncio.create_task(server._serve([listener]))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
            yield client
        server.should_exit = True
        await serving
        assert not engine.done()
        engine.cancel()


async def snapshot(client: httpx.AsyncClient, query: str = "") -> CapacitySnapshot:
    return decode_snapshot((await client.get(f"/capacity{query}")).content)


def events(text: str) -> list[dict[str, object]]:
    *chunks, end = [part.removeprefix("data: ") for part in text.strip().split("\n\n")]
    assert end == "[DONE]"
    return [msgspec.json.decode(chunk) for chunk in chunks]


async def test_a_stream_says_the_same_as_the_whole_answer() -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    async with emulator() as client:
        whole = (await client.post("/v1/chat/completions", json=body)).json()
        stream = events((await client.post("/v1/chat/completions", json={**body, "stream": True})).text)
    deltas = [event["choices"][0] for event in stream]  # type: ignore[index]
    assert deltas[0]["delta"]["role"] == "assistant"
    text = "".join(delta["delta"].get("content", "") for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"]
    assert [delta["finish_reason"] for delta in deltas[-2:]] == [None, "length"]
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}


async def test_usage_counts_every_token_when_it_is_asked_for_with_every_event() -> None:
    body = {
        "model": "tiny", "prompt": [1, 2, 3], "max_tokens": 6, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }  # fmt: skip
    async with emulator() as client:
        stream = events((await client.post("/v1/completions", json=body)).text)
    counts = [event["usage"]["completion_tokens"] for event in stream]  # type: ignore[index]
    assert counts == sorted(counts)
    assert counts[-1] == 6
    assert stream[-1]["choices"] == []


async def test_class_facts_and_the_callers_id_show_in_the_capacity_rows() -> None:
    terms = PriorityClass(name="high", weight=4, objectives=ServiceObjectives(ttft_s=500, tpot_s=0.04)).terms()
    body = {"model": "tiny", "prompt": [1] * 20, "max_tokens": 5000, "vllm_xargs": encode_facts(terms, age_s=200)}
    async with emulator(speed=1.0) as client:
        request = asyncio.create_task(client.post("/v1/completions", json=body, headers={"x-request-id": "abc123"}))
        current = await snapshot(client, "?after=0&wait=30000")
        request.cancel()
    row = current.rows[0]
    assert row.priority_class == "high"
    assert row.id.startswith("cmpl-abc123-0-")
    assert row.deadline_in_s == pytest.approx(300, abs=30)


async def test_a_client_that_leaves_frees_its_blocks() -> None:
    body = {"model": "tiny", "prompt": [1] * 100, "max_tokens": 5000, "stream": True}
    async with emulator(speed=1.0) as client:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            await anext(response.aiter_text())
            busy = await snapshot(client)
            assert busy.running == 1
        left_s = time.monotonic()
        # It counts as gone at once, its blocks are free when the step that it was in ends.
        while (idle := await snapshot(client)).free_blocks < idle.blocks:
            assert time.monotonic() - left_s < 30  # the answer takes longer
        assert idle.running == 0
        assert idle.blocks > busy.free_blocks


async def test_capacity_is_held_until_something_changes() -> None:
    async with emulator() as client:
        idle = await snapshot(client)
        held = asyncio.create_task(snapshot(client, f"?after={idle.seq}&wait=10000"))
        await asyncio.sleep(0.05)
        assert not held.done()
        await client.post("/drain")
        changed = await held
        assert changed.draining
        unchanged = await snapshot(client, f"?after={changed.seq}&wait=1")
    assert unchanged.seq == changed.seq


async def test_tokens_come_at_the_calibrated_pace() -> None:
    # 40 decode steps of about 7 ms each; only the lower limit can be relied on when the machine is busy.
    async with emulator(speed=1.0) as client:
        start_s = time.monotonic()
        await client.post("/v1/completions", json={"model": "tiny", "prompt": [1], "max_tokens": 40})
        assert time.monotonic() - start_s > 40 * 0.0065


async def test_requests_that_can_never_fit_and_unknown_routes_are_errors() -> None:
    async with emulator(kv_blocks=4) as client:
        long = await client.post("/v1/completions", json={"model": "tiny", "prompt": [1] * 60, "max_tokens": 5})
        unknown = await client.get("/v1/nothing")
        wrong_method = await client.get("/v1/completions")
        bad_query = await client.get("/capacity?after=x")
    assert long.status_code == 400
    assert "maximum length of 64 tokens" in long.json()["error"]["message"]
    assert (unknown.status_code, wrong_method.status_code, bad_query.status_code) == (404, 405, 400)


async def test_the_served_model_is_listed_with_its_length() -> None:
    async with emulator(kv_blocks=10) as client:
        [card] = (await client.get("/v1/models")).json()["data"]
        assert (await client.get("/healthz")).status_code == 200
    assert (card["id"], card["max_model_len"]) == ("tiny", 160)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": "abacus"}, "abacus"),
        ({"policy": "luck"}, "luck"),
        ({"speed": 0.0}, "speed: expected a number above 0"),
        ({"kv_blocks": 0}, "kv-blocks: expected at least 1"),
    ],
)
def test_wrong_options_are_refused_by_name(changes: dict[str, object], message: str) -> None:
    options = EmulatorOptions(calibration="cpu-tiny", policy="fcfs")
    with pytest.raises((KeyError, ValueError), match=message):
        build_replica(msgspec.structs.replace(options, **changes))


async def test_tokens_reach_their_readers_before_the_next_step_is_planned() -> None:
    """Planning costs no time in the emulated engine, so it must not delay what the step before has made."""
    taken: list[int] = []
    taken_when_planned: list[int] = []

    class Watching(Fcfs):
        def plan(self, state: EngineState) -> BatchPlan:
            taken_when_planned.append(sum(taken))
            return super().plan(state)

    options = EmulatorOptions(calibration="h100-llama-3.1-8b", policy="fcfs", speed=50.0)
    known = build_replica(options)
    replica = Replica(policy=Watching(), policy_name="fcfs", limits=known.limits, latency=known.latency)
    clockwork = Clockwork(replica, time.monotonic)
    engine = asyncio.create_task(clockwork.run())
    body = msgspec.json.encode({"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 5})
    feed = clockwork.submit(completion_job(body, model="tiny", max_model_length=100), "a")
    while not feed.finished:
        taken.append((await feed.take())[1])
    engine.cancel()
    assert taken_when_planned == [0, 1, 2, 3, 4]


async def test_decisions_about_a_request_are_explained() -> None:
    body = {"model": "tiny", "prompt": [1] * 20, "max_tokens": 3}
    async with emulator() as client:
        first = await client.get("/explain/abc123")
        await client.post("/v1/completions", json=body, headers={"x-request-id": "abc123"})
        [request] = (await client.get("/explain/abc123")).json()["requests"]
        unknown = await client.get("/explain/abc")
    assert request["id"].startswith("cmpl-abc123-0-")
    assert [(each["decision"], each["tokens"]) for each in request["decisions"]] == [("runs", 20)]
    assert unknown.status_code == 404
    assert first.json()["error"]["message"].endswith("no decision was made here yet")


async def test_copies_of_blocks_have_the_metrics_of_a_real_engine() -> None:
    settings = kv_offload('{"hostMemory": "1Gi", "offload": "OnPreempt", "copyBudget": "Unlimited"}')
    body = {"model": "tiny", "prompt": [1] * 200, "max_tokens": 150}
    async with emulator(kv_blocks=50, kv_offload=settings) as client:
        await asyncio.gather(*(client.post("/v1/completions", json=body) for _ in range(6)))
        lines = (await client.get("/metrics")).text.splitlines()
        found = await snapshot(client)
    figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    restored = float(figures['proserve_engine_kv_copied_blocks_total{direction="restore"}'])
    assert restored > 0
    assert float(figures['proserve_engine_kv_copied_bytes_total{direction="restore"}']) == restored * 2**21
    assert float(figures["proserve_engine_kv_restores_total"]) > 0
    assert float(figures["proserve_engine_kv_free_host_blocks"]) == found.free_host_blocks == found.host_blocks == 512


async def test_without_host_memory_there_are_no_metrics() -> None:
    async with emulator() as client:
        assert (await client.get("/metrics")).status_code == 404
