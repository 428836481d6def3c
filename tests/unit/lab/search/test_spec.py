"""Specifications of small workloads: what they build follows from the numbers."""

import random
from itertools import pairwise

import pytest
from msgspec.structs import replace

from proserve_lab.search.spec import Class, Lengths, WorkloadSpec, build
from proserve_lab.search.variation import changed, random_spec

CHAT = Lengths(share=1, prompt_median=100, prompt_sigma=0, output_median=20, output_sigma=0, correlation=0)
BATCH = replace(CHAT, prompt_median=1000, output_median=50)
SPEC = WorkloadSpec(
    calibration="h100-llama-3.1-8b",
    requests=60,
    load=1.0,
    cycles=3,
    on_share=0,
    gap_variation=1,
    kinds=(CHAT,),
    classes=(
        Class(share=1, weight=2, ttft_s=0.5, tpot_s=0.04),
        Class(share=1, weight=1, ttft_s=30, tpot_s=0.2),
    ),
    paired=False,
    first_token_gain=10,
    kv_tokens=100_000,
    max_sequences=16,
)


def test_without_spread_all_requests_are_the_medians() -> None:
    built = build(SPEC, 1)
    assert {(request.prompt_tokens, request.output_tokens) for request in built.requests} == {(100, 20)}
    assert {request.terms.first_token_gain for request in built.requests} == {10}
    assert (built.limits.blocks, built.limits.max_sequences) == (6250, 16)


def test_bursts_without_length_come_on_one_instant_each() -> None:
    arrivals_s = sorted({request.arrival_s for request in build(SPEC, 1).requests})
    assert len(arrivals_s) == 3
    assert arrivals_s[2] - arrivals_s[1] == pytest.approx(arrivals_s[1] - arrivals_s[0])


def test_paired_classes_send_their_own_kind_of_request() -> None:
    built = build(replace(SPEC, kinds=(CHAT, BATCH), paired=True), 1)
    assert {(request.terms.priority_class, request.prompt_tokens) for request in built.requests} == {
        ("class-0", 100),
        ("class-1", 1000),
    }


@pytest.mark.parametrize(("correlation", "sign"), [(1.0, 1), (-1.0, -1)])
def test_lengths_are_correlated_as_asked(correlation: float, sign: int) -> None:
    kind = Lengths(
        share=1, prompt_median=200, prompt_sigma=0.5, output_median=50, output_sigma=0.5, correlation=correlation
    )
    requests = sorted(build(replace(SPEC, kinds=(kind,)), 1).requests, key=lambda request: request.prompt_tokens)
    outputs = [request.output_tokens for request in requests]
    assert outputs == sorted(outputs, reverse=sign < 0)


def test_twice_the_load_comes_in_less_time() -> None:
    spec = replace(SPEC, on_share=1, gap_variation=0.3)
    once, twice = (build(replace(spec, load=load), 1).requests[-1].arrival_s for load in (1, 2))
    assert 0 < twice <= once / 2


def test_the_longest_request_fits_however_few_blocks_there_are() -> None:
    assert build(replace(SPEC, kv_tokens=10), 1).limits.blocks == 8


def test_a_seed_decides_everything() -> None:
    assert build(SPEC, 1) == build(SPEC, 1)
    assert build(SPEC, 1) != build(SPEC, 2)


def test_every_random_and_every_changed_specification_can_be_built() -> None:
    draw = random.Random(7)
    spec = random_spec(draw)
    for number in range(60):
        spec = random_spec(draw) if number % 10 == 0 else changed(spec, draw)
        requests = build(spec, number).requests
        assert len(requests) == spec.requests <= 300
        assert all(later.arrival_s >= sooner.arrival_s for sooner, later in pairwise(requests))
