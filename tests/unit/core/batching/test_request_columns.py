"""Columns say what the requests say, whatever was kept from steps before."""

import random

import numpy as np
import pytest

from engine_builders import H100_LLAMA_8B, decoding, engine_state, prefilling, service_terms, waiting
from proserve_core.batching import RequestState
from proserve_core.batching.lengths import band_of
from proserve_core.batching.request_columns import ColumnReader


def check(reader: ColumnReader, requests: list[RequestState], now_s: float) -> None:
    residents = [request for request in requests if request.resident]
    queue = [request for request in requests if not request.resident]
    state = engine_state(*requests, now_s=now_s, latency=H100_LLAMA_8B)
    columns = reader.read(state, residents=residents, waiting=queue)
    for place, request in enumerate(residents + queue):
        terms = request.terms
        assert columns.slack_s[place] == pytest.approx(request.next_deadline_s() - now_s)
        assert columns.tpot_s[place] == terms.objectives.tpot_s
        assert columns.next_gain[place] == request.next_token_gain()
        assert columns.token_gain[place] == terms.weight * terms.output_token_gain
        assert columns.context[place] == request.total_tokens
        assert columns.emitted[place] == request.emitted_tokens
        assert columns.decode[place] == request.is_decode
        assert columns.band[place] == band_of(request.prompt_tokens)
        prefill_s = (
            0.0 if request.is_decode else H100_LLAMA_8B.prefill_s(request.pending_tokens, request.computed_tokens)
        )
        assert columns.prefill_s[place] == pytest.approx(prefill_s)
    assert len(columns.decode) == len(requests)


def test_columns_follow_requests_through_all_changes() -> None:
    draw = random.Random(7)
    reader, requests = ColumnReader(), list[RequestState]()
    for step in range(300):
        change = draw.random()
        terms = service_terms(draw.choice([1.0, 2.0]), first_token_gain=draw.choice([1.0, 10.0]))
        name, prompt = f"r{step}", draw.randint(1, 5000)
        if change < 0.4:
            requests.append(waiting(name, prompt, arrival_s=step * 0.01, terms=terms))
        elif change < 0.5:
            requests.append(prefilling(name, prompt + 1, prompt // 2, terms=terms))
        elif change < 0.6:
            requests.append(decoding(name, prompt_tokens=prompt, emitted=draw.randint(1, 50), terms=terms))
        elif requests and change < 0.75:
            requests.pop(draw.randrange(len(requests)))
        elif requests:
            request = draw.choice(requests)
            if request.is_decode:
                request.computed_tokens += 1
                request.emitted_tokens += 1
            elif request.resident:
                request.resident, request.computed_tokens = False, 0
            elif request.pending_tokens > 1:
                request.resident, request.computed_tokens = True, request.computed_tokens + 1
        check(reader, requests, now_s=step * 0.02)


def test_no_request_gives_empty_columns() -> None:
    columns = ColumnReader().read(engine_state(), residents=[], waiting=[])
    assert np.size(columns.slack_s) == 0
