"""The poller follows engines with capacity, probes those without, and notices the ones that are gone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from proserve_core.capacity import CapacitySnapshot, encode_snapshot
from proserve_core.latency import LatencyModel
from proserve_core.routing import FleetView, ImmediateRoom, RouteDecision, RoutingRequest
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.health import EngineState
from proserve_gateway.fleet.poller import Poller, PollResult, PollSettings
from proserve_gateway.fleet.target import EngineTarget

QUICK = PollSettings(
    wait_s=0.05, answer_s=60.0, retry_s=0.005, probe_s=0.005, recheck_s=0.02, closest_s=0.002, metrics_s=0.004
)
HANGS_S = 0.3
"""Without an answer; a busy machine may take that long now and then, so only for tests of engines that hang."""
SNAPSHOT = CapacitySnapshot(
    seq=1, engine_id="e", model="m", policy="fcfs", age_s=0.0, block_size=16, blocks=100, free_blocks=50, running=0,
    waiting=0, max_sequences=8, max_step_tokens=512,
    latency=LatencyModel(
        host_s=0.001, floor_s=0.01, linear_base_s=0.005, linear_token_s=1e-5, attention_s=0, context_s=0, sequence_s=0
    ),
)  # fmt: skip


MEASURED = b"vllm:num_requests_running 3.0\nvllm:num_requests_waiting 2.0\n"


class NoChoice:
    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        raise AssertionError("nobody asks here")


class FakeEngine:
    """Models and capacity on one port; a status of 0 means that the answer never comes."""

    def __init__(self) -> None:
        self.models_status = 200
        self.capacity_status = 200
        self.models = b'{"data":[]}'
        self.metrics_status = 404
        self.metrics = b""
        self.snapshot = SNAPSHOT
        self.capacity_queries: list[str] = []
        self.authorizations: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                self.authorizations += [line for line in lines if line.startswith("authorization")]
                path = lines[0].split()[1]
                if path.startswith("/capacity"):
                    self.capacity_queries.append(path)
                    status, body = self.capacity_status, encode_snapshot(self.snapshot)
                    if f"after={self.snapshot.seq}&" in path:
                        await asyncio.sleep(0.02)
                elif path == "/metrics":
                    status, body = self.metrics_status, self.metrics
                else:
                    status, body = self.models_status, self.models
                if status == 0:
                    await asyncio.sleep(3600)
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


class Bench:
    def __init__(self, *, capacity: bool = True, answer_s: float = QUICK.answer_s) -> None:
        self.engine = FakeEngine()
        self.capacity = capacity
        self.polls: list[PollResult] = []
        self.fleet = Fleet(make_room=lambda _: ImmediateRoom(NoChoice()), clock=asyncio.get_running_loop().time)
        settings = msgspec.structs.replace(QUICK, answer_s=answer_s)
        self.poller = Poller(self.fleet, settings=settings, on_poll=lambda _, result: self.polls.append(result))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - what is awaited is seen from outside
                await asyncio.sleep(0.002)

    async def until_state(self, state: EngineState) -> None:
        await self.until(lambda: self.fleet.status()[0].state is state)

    def known(self) -> CapacitySnapshot | None:
        (engine,) = self.fleet.engines
        return engine.view.snapshot

    async def listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self.engine.serve, "127.0.0.1", self.engine.port)
        self.engine.port = server.sockets[0].getsockname()[1]
        return server

    def target(self) -> EngineTarget:
        url = f"http://127.0.0.1:{self.engine.port}"
        return EngineTarget(
            name="a", pool="chat", base_url=url, capacity_url=url if self.capacity else None, api_key="sk-engine"
        )


@asynccontextmanager
async def following(
    *,
    capacity: bool = True,
    prepare: Callable[[FakeEngine], None] | None = None,
    answer_s: float = QUICK.answer_s,
) -> AsyncIterator[Bench]:
    bench = Bench(capacity=capacity, answer_s=answer_s)
    if prepare is not None:
        prepare(bench.engine)
    server = await bench.listen()
    bench.fleet.set_targets([bench.target()])
    task = asyncio.create_task(bench.poller.run())
    try:
        yield bench
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.close()


async def test_engine_is_ready_after_its_first_snapshot() -> None:
    async with following() as bench:
        await bench.until_state(EngineState.READY)
        assert bench.known() == SNAPSHOT


async def test_change_is_seen_and_long_polls_name_the_last_sequence_number() -> None:
    async with following() as bench:
        await bench.until_state(EngineState.READY)
        bench.engine.snapshot = msgspec.structs.replace(SNAPSHOT, seq=7, running=3)
        await bench.until(lambda: "/capacity?after=7&wait=50" in bench.engine.capacity_queries)
        assert bench.known() == bench.engine.snapshot
        await bench.until(lambda: PollResult.UNCHANGED in bench.polls)


async def test_draining_is_seen() -> None:
    async with following() as bench:
        await bench.until_state(EngineState.READY)
        bench.engine.snapshot = msgspec.structs.replace(SNAPSHOT, seq=2, draining=True)
        await bench.until_state(EngineState.DRAINING)


async def test_engine_without_capacity_is_probed_with_its_key() -> None:
    async with following(capacity=False) as bench:
        await bench.until_state(EngineState.READY)
        assert bench.known() is None
        assert bench.engine.capacity_queries == []
        assert bench.engine.authorizations[0] == "authorization: Bearer sk-engine"
        assert set(bench.polls) == {PollResult.PROBED}


@pytest.mark.parametrize("owner", ["vllm", "sglang"])
async def test_stock_vllm_is_known_by_its_list_of_models(owner: str) -> None:
    def plain(engine: FakeEngine) -> None:
        engine.models = b'{"object":"list","data":[{"id":"m","object":"model","owned_by": "%s"}]}' % owner.encode()

    async with following(capacity=False, prepare=plain) as bench:
        await bench.until_state(EngineState.READY)
        (engine,) = bench.fleet.engines
        assert (engine.endpoint.is_vllm, engine.endpoint.has_capacity) == (owner == "vllm", False)


def measured(engine: FakeEngine) -> None:
    engine.capacity_status = 404
    engine.metrics_status = 200
    engine.metrics = MEASURED


@pytest.mark.parametrize("capacity", [True, False])
async def test_engine_without_capacity_is_read_through_its_metrics(capacity: bool) -> None:
    async with following(capacity=capacity, prepare=measured) as bench:
        await bench.until(lambda: PollResult.MEASURED in bench.polls)
        (row,) = bench.fleet.status()
        assert (row.state, row.running, row.waiting) == (EngineState.READY, 3, 2)
        (engine,) = bench.fleet.engines
        assert not engine.endpoint.has_capacity
        bench.engine.metrics = bench.engine.metrics.replace(b"3.0", b"8.0")
        await bench.until(lambda: bench.fleet.status()[0].running == 8)


async def test_engine_with_metrics_that_gets_capacity_is_read_exactly_from_then_on() -> None:
    async with following(prepare=measured) as bench:
        await bench.until(lambda: PollResult.MEASURED in bench.polls)
        bench.engine.capacity_status = 200
        await bench.until(lambda: bench.known() == SNAPSHOT)
        (engine,) = bench.fleet.engines
        assert engine.endpoint.has_capacity


async def test_engine_whose_metrics_hang_is_suspected_and_one_that_drops_them_is_probed() -> None:
    async with following(capacity=False, prepare=measured, answer_s=HANGS_S) as bench:
        await bench.until(lambda: PollResult.MEASURED in bench.polls)
        bench.engine.metrics_status = 0
        await bench.until_state(EngineState.SUSPECTED)
        assert "metrics: no answer" in bench.fleet.status()[0].last_error
        bench.engine.metrics_status = 404
        await bench.until_state(EngineState.READY)
        await bench.until(lambda: bench.known() is None)


async def test_engine_whose_capacity_is_not_there_is_probed_and_looked_at_again() -> None:
    def plain(engine: FakeEngine) -> None:
        engine.capacity_status = 404

    async with following(prepare=plain) as bench:
        await bench.until_state(EngineState.READY)
        assert bench.known() is None
        bench.engine.capacity_status = 200
        await bench.until(lambda: bench.known() is not None)


async def test_engine_that_stops_answering_is_suspected_and_comes_back() -> None:
    async with following(answer_s=HANGS_S) as bench:
        await bench.until_state(EngineState.READY)
        bench.engine.capacity_status = 0
        await bench.until_state(EngineState.SUSPECTED)
        assert "no answer within" in bench.fleet.status()[0].last_error
        bench.engine.capacity_status = 200
        await bench.until_state(EngineState.READY)


async def test_known_engine_is_not_taken_for_a_plain_one_when_its_capacity_vanishes() -> None:
    async with following() as bench:
        await bench.until_state(EngineState.READY)
        bench.engine.capacity_status = 404
        await bench.until_state(EngineState.SUSPECTED)


async def test_engine_whose_openai_server_is_not_up_is_not_ready() -> None:
    def half_up(engine: FakeEngine) -> None:
        engine.models_status = 503

    async with following(prepare=half_up) as bench:
        await bench.until(lambda: len(bench.polls) > 3)
        assert bench.fleet.status()[0].state is EngineState.STARTING
        assert bench.fleet.status()[0].last_error == "models: answered 503"
        bench.engine.models_status = 200
        await bench.until_state(EngineState.READY)


async def test_wrong_engine_key_is_named() -> None:
    def strict(engine: FakeEngine) -> None:
        engine.models_status = 401

    async with following(capacity=False, prepare=strict) as bench:
        await bench.until(lambda: bool(bench.polls))
        assert "check the apiKey" in bench.fleet.status()[0].last_error


async def test_answer_that_is_no_snapshot_is_missed_with_a_reason() -> None:
    async with following() as bench:
        await bench.until_state(EngineState.READY)
        bench.engine.snapshot = msgspec.structs.replace(SNAPSHOT, version=99)
        await bench.until_state(EngineState.SUSPECTED)
        assert "version 99 is not supported" in bench.fleet.status()[0].last_error


@pytest.mark.parametrize(
    "metrics",
    [
        b"vllm:num_requests_running 1.7e308\nvllm:num_requests_waiting 1.7e308\n",
        b'vllm:cache_config_info{block_size="%s",num_gpu_blocks="9"} 1.0\n' % (b"9" * 5000) + MEASURED,
    ],
    ids=["too many requests", "too many digits"],
)
async def test_metrics_that_nothing_can_be_made_of_end_no_polls(metrics: bytes) -> None:
    def odd(engine: FakeEngine) -> None:
        engine.capacity_status, engine.metrics_status, engine.metrics = 404, 200, metrics

    async with following(prepare=odd) as bench:
        await bench.until_state(EngineState.READY)
        bench.engine.capacity_status = 200
        await bench.until(lambda: bench.known() == SNAPSHOT)


async def test_fault_of_the_gateway_with_one_engine_is_logged_once_and_costs_that_engine_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(text: bytes) -> None:
        raise ZeroDivisionError(f"at {len(text)} bytes")

    async with following(prepare=measured) as bench:
        await bench.until(lambda: PollResult.MEASURED in bench.polls)
        monkeypatch.setattr("proserve_gateway.fleet.poller.read_metrics", broken)
        await bench.until_state(EngineState.SUSPECTED)
        bench.polls.clear()
        await bench.until(lambda: len(bench.polls) > 2)
        (fault,) = [record for record in caplog.records if record.exc_info]
        assert "engine a: a fault of the gateway" in fault.getMessage()
        assert fault.exc_info is not None
        assert fault.exc_info[0] is ZeroDivisionError
        monkeypatch.undo()
        await bench.until_state(EngineState.READY)


async def test_refused_connection_keeps_a_new_engine_starting() -> None:
    bench = Bench()
    server = await bench.listen()
    server.close()
    await server.wait_closed()
    bench.fleet.set_targets([bench.target()])
    task = asyncio.create_task(bench.poller.run())
    await bench.until(lambda: len(bench.polls) > 2)
    assert bench.fleet.status()[0].state is EngineState.STARTING
    server = await bench.listen()
    await bench.until_state(EngineState.READY)
    task.cancel()
    server.close()


async def test_removed_engine_is_left_alone_and_a_new_one_is_followed() -> None:
    async with following() as bench:
        await bench.until_state(EngineState.READY)
        bench.fleet.set_targets([])
        await asyncio.sleep(0.05)
        count = len(bench.engine.capacity_queries)
        await asyncio.sleep(0.05)
        assert len(bench.engine.capacity_queries) == count
        bench.fleet.set_targets([bench.target()])
        await bench.until_state(EngineState.READY)
