"""What an engine is told of a request over HTTP: class facts from us, nothing that a client forged."""

from fake_openai_engine import fake_engine
from gateway_builders import FREE_KEY, gateway
from openai_replies import AUTH


async def test_engine_of_ours_gets_class_facts_and_is_asked_for_exact_usage() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        await gate.chat(stream=True, temperature=0.5, unheard_of={"a": 1})
        body = engine.requests[0].body
        facts = body["vllm_xargs"]
        assert 0 <= facts.pop("proserve_age_ms") < 1000
        assert facts == {
            "proserve_client": "gold",
            "proserve_class": "high",
            "proserve_weight": 4.0,
            "proserve_first_gain": 1.0,
            "proserve_token_gain": 1.0,
            "proserve_ttft_ms": 500.0,
            "proserve_tpot_ms": 40.0,
        }
        assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
        assert (body["temperature"], body["unheard_of"]) == (0.5, {"a": 1})


async def test_foreign_engine_is_told_nothing_it_may_not_know() -> None:
    async with fake_engine() as engine, gateway(engine, ours=False) as gate:
        await gate.chat(stream=True)
        assert "vllm_xargs" not in engine.requests[0].body
        assert engine.requests[0].body["stream_options"] == {"include_usage": True}


async def test_forged_control_fields_and_headers_do_not_reach_the_engine() -> None:
    forged = {"proserve_weight": 1e6, "proserve_class": "vip", "kv_transfer_params": "x", "mine": 5}
    async with fake_engine() as engine, gateway(engine) as gate:
        reply = await gate.chat(
            key=FREE_KEY,
            vllm_xargs=forged,
            priority=-100,
            kv_transfer_params={"remote_host": "10.0.0.1"},
            ec_transfer_params={"remote_host": "10.0.0.1"},
            headers={"x-vllm-priority": "-100", "x-forwarded-for": "1.2.3.4"},
        )
        assert reply.headers["x-proserve-class"] == "low"
        sent = engine.requests[0]
        assert sent.body["vllm_xargs"]["proserve_weight"] == 1.0
        assert sent.body["vllm_xargs"]["proserve_class"] == "low"
        assert sent.body["vllm_xargs"]["mine"] == 5
        assert "kv_transfer_params" not in sent.body["vllm_xargs"]
        assert not {"priority", "kv_transfer_params", "ec_transfer_params"} & sent.body.keys()
        assert not {"x-vllm-priority", "x-forwarded-for"} & sent.headers.keys()
        assert sent.headers["authorization"] == "Bearer engine-key"


async def test_field_that_occurs_twice_reaches_the_engine_once() -> None:
    raw = (
        b'{"model":"tiny","messages":[],"vllm_xargs":{"proserve_weight":9},'
        b'"vllm_xargs":{"proserve_weight":7,"prose\\u0072ve_class":"vip"}}'
    )
    async with fake_engine() as engine, gateway(engine) as gate:
        await gate.client.post("/v1/chat/completions", content=raw, headers=AUTH)
        assert engine.requests[0].raw.count(b"vllm_xargs") == 1
        assert engine.requests[0].body["vllm_xargs"]["proserve_weight"] == 4.0
        assert b"vip" not in engine.requests[0].raw
