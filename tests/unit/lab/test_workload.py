"""From a trace to the requests of a replay."""

import msgspec
import pytest

from proserve_core.objectives import DEFAULT_CLASS
from proserve_lab.trace import TraceRow
from proserve_lab.workload import LengthScale, TenantLoad, build_requests

ROWS = [TraceRow(arrival_s=number * 0.5, prompt_tokens=800, output_tokens=3) for number in range(400)]
TENANTS = [
    TenantLoad(name=name, api_key=f"key-{name}", terms=DEFAULT_CLASS.terms(), share=1.0) for name in ("chat", "reports")
]
SCALE = LengthScale(divisor=8, longest_prompt=64, longest_output=10)


def test_the_same_seed_gives_the_same_requests_and_another_one_other_senders() -> None:
    first = build_requests(ROWS, tenants=TENANTS, scale=SCALE, rate=10, seed=1)
    assert first == build_requests(ROWS, tenants=TENANTS, scale=SCALE, rate=10, seed=1)
    other = build_requests(ROWS, tenants=TENANTS, scale=SCALE, rate=10, seed=2)
    assert [request.api_key for request in first] != [request.api_key for request in other]


def test_shares_are_kept_on_average() -> None:
    requests = build_requests(ROWS, tenants=TENANTS, scale=SCALE, rate=10, seed=1)
    assert sum(request.api_key == "key-chat" for request in requests) == pytest.approx(200, abs=40)
    only = [TENANTS[0], msgspec.structs.replace(TENANTS[1], share=0.0)]
    assert all(r.api_key == "key-chat" for r in build_requests(ROWS, tenants=only, scale=SCALE, rate=10, seed=1))


def test_lengths_are_divided_and_kept_within_limits() -> None:
    request = build_requests(ROWS, tenants=TENANTS, scale=SCALE, rate=10, seed=1)[0]
    assert (request.prompt_tokens, request.output_tokens) == (64, 1)


def test_arrivals_come_at_the_wanted_rate() -> None:
    requests = build_requests(ROWS, tenants=TENANTS, scale=SCALE, rate=10, seed=1)
    assert requests[-1].arrival_s == pytest.approx(39.9)
