"""Recorded requests as requests of a simulation."""

from pathlib import Path

import msgspec
import pytest

from proserve_core.gain import LossCause
from proserve_core.latency.calibrations import load_calibration
from proserve_core.objectives import PriorityClass, ServiceObjectives, ServiceTerms
from proserve_core.request_record import RecordedEngine, RecordedFleet, RecordLine, RequestRecord
from proserve_lab.recorded_traffic import RecordError, pool_traffic, read_records, servable, what_happened, workload

KIND = load_calibration("cpu-tiny")


def request(name: str, at_s: float = 100.0, **fields: object) -> RequestRecord:
    terms = ServiceTerms(
        priority_class="high",
        weight=2,
        first_token_gain=1,
        output_token_gain=1,
        objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.1),
    )
    known: dict[str, object] = {
        "id": name, "arrived_unix_s": at_s, "tenant": "a", "model": "m", "pool": "p", "terms": terms,
        "expected_prompt_tokens": 10, "prompt_tokens": 12, "expected_output_tokens": 30.0, "output_tokens": 20,
        "ttft_s": 0.5, "last_token_s": 1.5, "ended_s": 1.6, "status": 200, "earned": 40.0,
    }  # fmt: skip
    return RequestRecord(**(known | fields))  # type: ignore[arg-type]


def engine(pool: str = "p", name: str = "p-0", blocks: int = KIND.blocks) -> RecordedEngine:
    return RecordedEngine(
        name=name, pool=pool, policy="fcfs", block_size=KIND.block_size, blocks=blocks,
        max_sequences=KIND.max_sequences, max_step_tokens=KIND.max_step_tokens, latency=KIND.latency,
    )  # fmt: skip


def fleet(at_s: float, *engines: RecordedEngine, router: str = "min-load") -> RecordLine:
    routers = {each.pool: router for each in engines}
    return RecordLine(fleet=RecordedFleet(at_unix_s=at_s, routers=routers, engines=engines))


def lines(*requests: RequestRecord) -> list[RecordLine]:
    return [RecordLine(request=each) for each in requests]


def write(path: Path, *written: RecordLine, end: bytes = b"\n") -> Path:
    path.write_bytes(b"\n".join(map(msgspec.json.encode, written)) + end)
    return path


def test_what_a_gateway_writes_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", fleet(1.0, engine()), *lines(request("a"), request("b")))
    assert len(read_records([path])) == 3


def test_half_a_line_at_the_end_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", *lines(request("a")), end=b'\n{"request": {"id": "b')
    assert len(read_records([path])) == 1


@pytest.mark.parametrize("text", ["{}", '{"hello": 1}', "nonsense", '{"request": {"id": "a"}}'])
def test_line_of_something_else_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(f"{text}\n{text}\n")
    with pytest.raises(RecordError, match=r"r\.jsonl:1: not a line of a record"):
        read_records([path])


def test_request_that_is_there_twice_is_named_with_both_places(tmp_path: Path) -> None:
    record = write(tmp_path / "r.jsonl", *lines(request("a"), request("b")))
    copy = write(tmp_path / "copy.jsonl", *lines(request("c"), request("b")))
    with pytest.raises(
        RecordError, match=r"copy\.jsonl:2: request 'b' is in .*r\.jsonl:2 already; give each record once"
    ):
        read_records([record, copy])
    with pytest.raises(RecordError, match=r"r\.jsonl:1: request 'a' is in .*r\.jsonl:1 already"):
        read_records([record, record])


def test_requests_of_several_files_come_in_order_of_arrival_and_from_zero_on() -> None:
    traffic = pool_traffic(lines(request("b", 105.0), request("a", 100.0)), None)
    assert [(each.id, each.arrival_s) for each in workload(traffic.requests, {})] == [("a", 0.0), ("b", 5.0)]


def test_engines_and_router_are_those_told_last() -> None:
    told = [fleet(5.0, engine(name="new"), router="go-full"), fleet(1.0, engine(name="old"))]
    traffic = pool_traffic([*told, *lines(request("a"))], None)
    assert ([each.name for each in traffic.engines], traffic.router) == (["new"], "go-full")


def test_pool_must_be_named_where_there_are_several() -> None:
    both = lines(request("a"), request("b", pool="q"))
    with pytest.raises(RecordError, match="choose one with --pool: p, q"):
        pool_traffic(both, None)
    assert [each.id for each in pool_traffic(both, "q").requests] == ["b"]
    with pytest.raises(RecordError, match="no requests of pool z; it has: p, q"):
        pool_traffic(both, "z")


def test_requests_that_bring_no_tokens_take_no_part() -> None:
    embedding = request("e", expected_output_tokens=0.0, output_tokens=0, earned=0.0, ttft_s=None)
    assert [each.id for each in pool_traffic(lines(embedding, request("a")), None).requests] == ["a"]


def test_request_that_was_cut_short_gets_the_length_that_was_expected() -> None:
    whole = request("a")
    left = request("b", lost={LossCause.CLIENT_CANCEL: 20.0}, status=499)
    refused = request("c", lost={LossCause.SHED: 60.0}, output_tokens=0, prompt_tokens=None)
    made = workload([whole, left, refused], {})
    assert [(each.prompt_tokens, each.output_tokens) for each in made] == [(12, 20), (12, 30), (10, 30)]


def test_changed_classes_give_their_terms_and_others_keep_theirs() -> None:
    heavy = PriorityClass(name="high", weight=9, objectives=ServiceObjectives(ttft_s=0.2, tpot_s=0.01))
    low = msgspec.structs.replace(request("b").terms, priority_class="low")
    first, second = workload([request("a"), request("b", terms=low)], {"high": heavy})
    assert (first.terms.weight, first.terms.objectives.ttft_s) == (9, 0.2)
    assert second.terms == low


def test_what_happened_is_what_was_booked() -> None:
    late = request("b", ttft_s=1.5, last_token_s=2.0, earned=38.0, lost={LossCause.LATE_FIRST_TOKEN: 2.0})
    cut = request("c", lost={LossCause.ENGINE_FAILURE: 20.0}, earned=20.0, status=502)
    totals = what_happened([request("a"), late, cut])["high"]
    assert (totals.requests, totals.slo_attained, totals.earned, totals.earnable) == (3, 1, 98.0, 120.0)


def test_requests_that_no_engine_could_hold_are_left_out() -> None:
    huge = request("h", prompt_tokens=10**6)
    made = workload([request("a"), huge], {})
    assert [each.id for each in servable(made, [engine(), engine(blocks=4)])] == ["a"]
