"""Columns say what the requests say, whatever has come, changed and gone in the table before."""

import random

import numpy as np
import pytest

from engine_builders import H100_LLAMA_8B, decoding, engine_limits, prefilling, service_terms, waiting
from proserve_core.batching import EngineState
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.batching.request_table import RequestTable


def columns_of(table: RequestTable, now_s: float = 0.0) -> RequestColumns:
    return RequestColumns(
        EngineState(now_s=now_s, requests=table, limits=engine_limits(), free_blocks=1000, latency=H100_LLAMA_8B)
    )


def check(table: RequestTable, now_s: float) -> None:
    columns = columns_of(table, now_s)
    expected = [*table.residents, *table.waiting]
    assert len(columns) == len(expected) == len(table)
    assert list(columns.lazily([np.arange(len(columns))])) == expected
    for place, request in enumerate(expected):
        terms = request.terms
        assert request.resident == (place < columns.residents)
        assert columns.arrival_s[place] == request.arrival_s
        assert columns.slack_s[place] == pytest.approx(request.next_deadline_s() - now_s)
        assert columns.ttft_s[place] == terms.objectives.ttft_s
        assert columns.tpot_s[place] == terms.objectives.tpot_s
        assert columns.next_gain[place] == request.next_token_gain()
        assert columns.token_gain[place] == terms.weight * terms.output_token_gain
        assert columns.context[place] == request.total_tokens
        assert columns.emitted[place] == request.emitted_tokens
        assert columns.computed[place] == request.computed_tokens
        assert columns.pending[place] == request.pending_tokens
        assert columns.decode[place] == request.is_decode
        assert columns.most[place] == (request.clues.max_tokens or float("inf"))
        if request.first_token_s is None:
            assert columns.first_token_slack_s[place] == columns.slack_s[place]
        else:
            due_s = request.first_token_s + request.emitted_tokens * terms.objectives.tpot_s
            assert columns.first_token_slack_s[place] == pytest.approx(due_s - now_s)
        prefill_s = (
            0.0 if request.is_decode else H100_LLAMA_8B.prefill_s(request.pending_tokens, request.computed_tokens)
        )
        assert columns.prefill_s[place] == pytest.approx(prefill_s)


def test_columns_follow_requests_through_all_changes() -> None:
    draw = random.Random(7)
    table = RequestTable()
    for step in range(600):
        change = draw.random()
        terms = service_terms(draw.choice([1.0, 2.0]), first_token_gain=draw.choice([1.0, 10.0]))
        name, prompt = f"r{step}", draw.randint(1, 5000)
        if change < 0.4:
            table.add(waiting(name, prompt, arrival_s=step * 0.01, terms=terms))
        elif change < 0.5:
            table.add(prefilling(name, prompt + 1, prompt // 2, terms=terms))
        elif change < 0.6:
            table.add(decoding(name, prompt_tokens=prompt, emitted=draw.randint(1, 50), terms=terms))
        elif table and change < 0.85:
            table.remove(draw.choice(list(table)).id)
        elif table:
            request = draw.choice(list(table))
            if request.is_decode:
                request.computed_tokens += 1
                request.emitted_tokens += 1
            elif request.resident:
                request.resident, request.computed_tokens = False, 0
                table.update(request)
            elif request.pending_tokens > 1:
                request.resident, request.computed_tokens = True, request.computed_tokens + 1
                table.update(request)
        check(table, now_s=step * 0.02)


def test_no_request_gives_empty_columns() -> None:
    columns = columns_of(RequestTable())
    assert (len(columns), len(columns.slack_s), len(columns.decode)) == (0, 0, 0)
