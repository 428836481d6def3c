"""The admin port says whether the gateway can serve, and if not, why."""

import httpx
import msgspec
import pytest

from proserve_core.capacity import CapacitySnapshot
from proserve_core.gain_report import GainReport
from proserve_core.latency import LatencyModel
from proserve_core.objectives import PriorityClass, ServiceObjectives, Tenant
from proserve_core.pools import EnginePool, PoolModel
from proserve_core.resources import Resources
from proserve_core.routing import make_room
from proserve_gateway.admin.app import Readiness, admin_app
from proserve_gateway.configuration.catalog import Catalog
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.metrics import FleetCollector
from proserve_gateway.fleet.target import EngineTarget
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.seeing.accounting import Accounting
from proserve_gateway.seeing.seeing import Seeing

HIGH = PriorityClass(name="high", weight=2, objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.1))
LOW = PriorityClass(name="low", weight=1, objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.1))
CATALOG = Catalog.from_resources(
    Resources(
        priority_classes=(HIGH, LOW),
        tenants=(Tenant(name="acme", namespace="default", priority_class="high", anonymous=True),),
        engine_pools=(EnginePool(name="chat", namespace="default", model=PoolModel(name="tiny")),),
    )
)
SNAPSHOT = CapacitySnapshot(
    seq=1, engine_id="e", model="tiny", policy="fcfs", age_s=0.0, block_size=16, blocks=100, free_blocks=40, running=3,
    waiting=2, max_sequences=8, max_step_tokens=512,
    latency=LatencyModel(
        host_s=0.001, floor_s=0.01, linear_base_s=0.005, linear_token_s=1e-5, attention_s=0, context_s=0, sequence_s=0
    ),
)  # fmt: skip


class Bench:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.metrics = GatewayMetrics()
        self.accounting = Accounting(self.metrics)
        self.fleet = Fleet(make_room=lambda _: make_room("round-robin"), clock=lambda: self.now_s)
        self.fleet.set_targets(
            [EngineTarget(name="chat-0", pool="chat", base_url="http://127.0.0.1:1", api_key="sk-e")]
        )
        FleetCollector(self.fleet, self.metrics)
        self.readiness = Readiness(self.fleet, clock=lambda: self.now_s)
        self.app = admin_app(
            catalog=lambda: CATALOG,
            fleet=self.fleet,
            accounting=self.accounting,
            metrics=self.metrics,
            readiness=self.readiness,
            seeing=Seeing(
                accounting=self.accounting,
                metrics=self.metrics,
                fleet=self.fleet,
                catalog=lambda: CATALOG,
                clock=lambda: self.now_s,
            ),
            problems=lambda: {"Tenant/default/bob": ["spec.apiKeys[0]: is gone; add it"]},
            configuration_error=lambda: "weight must be at least 1",
            of_engine=self.of_engine,
        )

    async def of_engine(self, engine: str, request_id: str) -> tuple[int, bytes]:
        return 200, f"{request_id} at {engine}".encode()

    def engine_answers(self) -> None:
        (engine,) = self.fleet.engines
        self.fleet.snapshot_arrived(engine, SNAPSHOT)

    async def get(self, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
            return await client.get(path)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_alive_before_it_is_ready(bench: Bench) -> None:
    assert (await bench.get("/healthz")).status_code == 200
    answer = await bench.get("/readyz")
    assert answer.status_code == 503
    assert answer.text == "pool chat: no engine can take requests (chat-0 is starting)\n"


async def test_reason_of_a_lost_engine_is_told(bench: Bench) -> None:
    (engine,) = bench.fleet.engines
    bench.fleet.poll_missed(engine, "models: no connection")
    assert "chat-0 is starting: models: no connection" in (await bench.get("/readyz")).text


async def test_ready_when_every_pool_has_an_engine(bench: Bench) -> None:
    bench.engine_answers()
    assert (await bench.get("/readyz")).status_code == 200


async def test_pool_without_engines_is_named(bench: Bench) -> None:
    bench.fleet.set_targets([])
    assert "pool chat: no engine can take requests (it has no engines)" in (await bench.get("/readyz")).text


def test_outage_of_a_pool_takes_no_gateway_from_the_clients_of_others() -> None:
    fleet = Fleet(make_room=lambda _: make_room("round-robin"), clock=lambda: 0.0)
    readiness = Readiness(fleet, clock=lambda: 0.0)
    targets = [EngineTarget(name=pool, pool=pool, base_url="http://127.0.0.1:1") for pool in ("chat", "batch")]
    fleet.set_targets(targets)
    chat, batch = fleet.engines
    fleet.probe_answered(chat)
    assert len(readiness.missing(["chat", "batch"])) == 1
    fleet.probe_answered(batch)
    assert readiness.missing(["chat", "batch"]) == []
    fleet.set_targets(targets[:1])
    assert readiness.missing(["chat", "batch"]) == []
    fleet.set_targets([])
    assert len(readiness.missing(["chat", "batch"])) == 2


async def test_not_ready_once_shutdown_begins(bench: Bench) -> None:
    bench.engine_answers()
    bench.readiness.stopping = True
    answer = await bench.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "the gateway is shutting down\n")
    assert (await bench.get("/healthz")).status_code == 200


async def test_status_shows_engines_and_gain_of_every_class(bench: Bench) -> None:
    bench.engine_answers()
    bench.now_s += 0.5
    entry = bench.accounting.open(terms=HIGH.terms(), tenant="acme", model="tiny", arrival_s=bench.now_s, max_tokens=4)
    entry.tokens(bench.now_s + 0.5, 4)
    entry.close()
    answer = await bench.get("/status")
    body = answer.json()
    assert body["ready"] is True
    assert body["configuration_error"] == "weight must be at least 1"
    (engine,) = body["engines"]
    assert (engine["name"], engine["state"], engine["running"], engine["waiting"]) == ("chat-0", "ready", 3, 2)
    assert engine["poll_age_s"] == pytest.approx(0.5)
    assert body["classes"]["high"]["earned"] == 8.0
    assert body["classes"]["low"]["requests"] == 0
    assert body["tenants"]["acme"]["tdg_ratio"] == 1.0
    assert body["total"]["requests"] == 1
    assert "sk-e" not in answer.text


async def test_metrics_show_the_engines(bench: Bench) -> None:
    bench.engine_answers()
    text = (await bench.get("/metrics")).text
    assert 'proserve_gateway_engine_state{engine="chat-0",pool="chat",state="ready"} 1.0' in text
    assert 'proserve_gateway_engine_state{engine="chat-0",pool="chat",state="suspected"} 0.0' in text


async def test_gain_is_told_for_windows_and_intervals(bench: Bench) -> None:
    body = (await bench.get("/gain")).json()
    assert set(body["windows"]) == {"1m", "5m", "1h", "all"}
    assert set(body["series"]) == {"high", "low"}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/gain?seconds=0", "seconds is '0': it must be a whole number from 1 to 3600"),
        ("/decisions?limit=-1", "limit is '-1': it must be a whole number from 1 to 4096"),
        ("/decisions?klass=high", "klass is not known: use limit, class, tenant, pool, cause"),
    ],
)
async def test_questions_that_make_no_sense_are_refused(bench: Bench, path: str, said: str) -> None:
    answer = await bench.get(path)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, said)


async def test_request_that_nobody_knows_is_a_404_with_the_possible_reasons(bench: Bench) -> None:
    answer = await bench.get("/decisions/nobody")
    assert answer.status_code == 404
    assert "nothing is known of request 'nobody'" in answer.json()["error"]["message"]
    assert (await bench.get("/decisions")).json() == {"requests": []}


async def test_decisions_of_an_engine_are_passed_on(bench: Bench) -> None:
    assert (await bench.get("/engine-decisions/a%20b?engine=chat%2F0")).text == "a b at chat/0"


async def test_report_tells_the_operator_gain_engines_and_problems(bench: Bench) -> None:
    bench.engine_answers()
    first = msgspec.json.decode((await bench.get("/report")).content, type=GainReport)
    assert [(each.name, each.pool, each.ready, each.stake) for each in first.engines] == [("chat-0", "chat", True, 0.0)]
    assert first.problems == {"Tenant/default/bob": ["spec.apiKeys[0]: is gone; add it"]}
    assert msgspec.json.decode((await bench.get("/report")).content, type=GainReport).instance == first.instance


@pytest.mark.parametrize("in_cluster", [True, False])
async def test_in_a_cluster_pools_without_engines_are_waited_for_once(in_cluster: bool) -> None:
    now_s = 0.0
    fleet = Fleet(make_room=lambda _: make_room("round-robin"), clock=lambda: now_s)
    readiness = Readiness(fleet, clock=lambda: now_s, in_cluster=in_cluster)
    assert bool(readiness.missing([])) is in_cluster
    readiness.configured()
    assert readiness.missing(["chat"]) == ["pool chat: no engine can take requests (it has no engines)"]
    fleet.first_engines.use(["asleep"])
    assert len(readiness.missing(["chat", "asleep"])) == 1
    now_s = 9.0
    assert readiness.missing(["chat"])
    now_s = 10.0
    assert bool(readiness.missing(["chat"])) is not in_cluster
    readiness.stopping = True
    assert readiness.missing(["chat"]) == ["the gateway is shutting down"]
