"""What is remembered of requests: where they went and why, and what came of it."""

import asyncio
import gc

import httpx
import pytest

from fake_openai_engine import FakeRequest, Reply, fake_engine
from gateway_builders import FREE_KEY, gateway
from proserve_core.gain import LossCause
from proserve_core.objectives import ServiceObjectives, ServiceTerms, TenantLimits
from proserve_core.routing import FleetView, RouteDecision, RoutingRequest
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.requests.body import BodyKind, parse_body
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.seeing.accounting import Accounting
from proserve_gateway.seeing.decisions import KEPT_REFUSED, Decisions
from proserve_gateway.seeing.request_trail import RequestTrail

TERMS = ServiceTerms(
    priority_class="high",
    weight=2,
    first_token_gain=1,
    output_token_gain=1,
    objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.1),
)


class Predicting:
    """The first engine by name, with figures."""

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        names = sorted(view.name for view in fleet.engines)
        return RouteDecision(
            engine=names[0],
            reason="first by name",
            expected_ttft_s=0.25,
            expected_gain=7.0,
            candidates=tuple(names),
            candidate_ttft_s=(0.25, 0.5),
            candidate_gain=(7.0,),
        )


def request_id(reply: httpx.Response) -> str:
    return reply.headers["x-proserve-request-id"]


async def test_predictions_stand_beside_what_happened() -> None:
    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b, router=Predicting) as running:
        reply = await running.chat(max_tokens=3, stream=True, stream_options={"include_usage": True})
        record = running.decisions.get(request_id(reply))
    assert record is not None
    (attempt,) = record.attempts
    assert (attempt.engine, attempt.reason, attempt.tokens) == ("a", "first by name", 3)
    assert (attempt.expected_ttft_s, attempt.expected_gain) == (0.25, 7.0)
    assert [(other.engine, other.expected_ttft_s, other.expected_gain) for other in attempt.alternatives] == [
        ("a", 0.25, 7.0),
        ("b", 0.5, None),
    ]
    assert (record.tenant, record.priority_class, record.model, record.pool) == ("gold", "high", "tiny", "tiny")
    assert (record.status, record.output_tokens, record.prompt_tokens, record.streams) == (200, 3, 7, True)
    assert record.ttft_s is not None
    assert record.ended_s is not None
    assert 0 <= attempt.sent_s <= record.ttft_s <= record.ended_s
    assert record.earned == record.earnable == 12.0


async def test_failed_engine_and_the_one_that_took_over_are_both_there() -> None:
    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b, is_vllm=True, router=Predicting) as running:
        a.break_before = 2
        reply = await running.chat(max_tokens=5, stream=True)
        record = running.decisions.get(request_id(reply))
    assert record is not None
    assert [(each.engine, each.tokens, each.failure) for each in record.attempts] == [
        ("a", 2, "truncated"),
        ("b", 3, ""),
    ]
    assert record.status == 200


async def test_loss_and_the_error_that_the_client_got_are_told() -> None:
    async def refuse(request: FakeRequest, reply: Reply) -> None:
        await reply.json(500, {"message": "out of paper"})

    async with fake_engine("a") as engine, gateway(engine) as running:
        engine.behave = refuse
        reply = await running.chat(max_tokens=4)
        record = running.decisions.get(request_id(reply))
    assert record is not None
    assert (record.status, record.error) == (502, "engine_failure")
    assert record.why == "engine a answered HTTP 500"
    assert [each.failure for each in record.attempts] == ["server_error"]
    assert record.lost == {LossCause.ENGINE_FAILURE: 16.0}
    assert record.main_loss is LossCause.ENGINE_FAILURE


async def test_request_under_way_can_be_asked_about() -> None:
    async with fake_engine("a") as engine, gateway(engine) as running:
        engine.token_gate = asyncio.Event()
        task = asyncio.create_task(running.chat(max_tokens=4, stream=True))
        await running.tokens(2)
        (record,) = running.decisions.latest(5)
        engine.token_gate.set()
        await task
    assert (record.status, record.ended_s, record.output_tokens) == (None, None, 2)


async def test_neither_prompt_nor_answer_nor_key_is_kept() -> None:
    async with fake_engine("a") as engine, gateway(engine) as running:
        reply = await running.chat(messages=[{"role": "user", "content": "my secret"}], user="someone")
        record = running.decisions.get(request_id(reply))
    text = repr(record)
    assert record is not None
    assert not any(word in text for word in ("my secret", "someone", "t0 ", "gold-key", "engine-key"))


async def test_what_engines_say_of_a_prompt_is_in_no_log_and_on_no_status_page(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def quote(request: FakeRequest, reply: Reply) -> None:
        await reply.json(500, {"message": f"can't do {request.body['messages'][0]['content']}"})

    async def quote_in_stream(request: FakeRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.event({"error": {"message": request.body["messages"][0]["content"], "code": 500}})

    async with fake_engine("a") as engine, gateway(engine) as running:
        for engine.behave in (quote, quote_in_stream):
            await running.chat(messages=[{"role": "user", "content": "my secret"}], stream=True)
        status = repr(running.fleet.status()) + repr(running.decisions.latest(2))
    assert len(caplog.records) == 2
    assert "engine a answered HTTP 500" in caplog.text
    assert "secret" not in caplog.text + status


async def test_newest_come_first_and_can_be_filtered() -> None:
    async with fake_engine("a") as engine, gateway(engine) as running:
        ids = [request_id(await running.chat(key=FREE_KEY)) for _ in range(2)]
        ids.append(request_id(await running.chat()))
        latest = running.decisions.latest(2)
        free = running.decisions.latest(5, wanted=lambda trail: trail.tenant == "free")
    assert [record.id for record in latest] == [ids[2], ids[1]]
    assert [record.id for record in free] == [ids[1], ids[0]]


def begun(decisions: Decisions, accounting: Accounting, name: str) -> RequestTrail:
    request = InferenceRequest(
        id=name,
        arrival_s=0.0,
        terms=TERMS,
        tenant="t",
        pool="p",
        path="/v1/completions",
        body=parse_body(BodyKind.COMPLETION, b'{"model": "m", "prompt": "x"}'),
    )
    entry = accounting.open(terms=TERMS, tenant="t", model="m", arrival_s=0.0)
    return decisions.begin(request, entry, expected_prompt_tokens=1)


def test_oldest_is_forgotten_even_if_it_has_not_ended() -> None:
    decisions, accounting = Decisions(clock=lambda: 0.0, kept=2), Accounting(GatewayMetrics())
    trails = [begun(decisions, accounting, name) for name in ("one", "two", "three")]
    assert [record.id for record in decisions.latest(9)] == ["three", "two"]
    assert decisions.get("one") is None
    trails[0].entry.close()


def test_flood_beyond_a_quota_makes_no_other_request_forgotten() -> None:
    decisions, accounting = Decisions(clock=lambda: 0.0, kept=2), Accounting(GatewayMetrics())
    begun(decisions, accounting, "important")
    for number in range(KEPT_REFUSED + 1):
        decisions.over_quota(begun(decisions, accounting, f"refused {number}"))
    assert decisions.get("important") is not None
    assert decisions.get("refused 0") is None
    assert len(decisions.latest(9999)) == 1 + KEPT_REFUSED


async def test_request_over_quota_is_told_with_the_others() -> None:
    async with fake_engine("a") as engine, gateway(engine, tenant_limits=TenantLimits(requests_per_minute=1)) as gate:
        ids = [request_id(await gate.chat()) for _ in range(2)] + [request_id(await gate.chat(key=FREE_KEY))]
        latest = gate.decisions.latest(5)
    assert [record.id for record in latest] == ids[::-1]
    assert [record.status for record in latest] == [200, 429, 200]


def test_forgotten_requests_wait_for_no_garbage_collector() -> None:
    decisions, accounting = Decisions(clock=lambda: 0.0, kept=1), Accounting(GatewayMetrics())
    gc.collect()
    gc.disable()
    try:
        begun(decisions, accounting, "forgotten").entry.close()
        begun(decisions, accounting, "kept").entry.close()
        # Not what a collection finds: threads of other tests leave cycles behind, too.
        trails = [each.id for each in gc.get_objects() if isinstance(each, RequestTrail)]
        assert [name for name in trails if name in ("forgotten", "kept")] == ["kept"]
    finally:
        gc.enable()
