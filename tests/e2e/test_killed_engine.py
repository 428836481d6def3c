"""An engine that dies, is told to stop or freezes under load: every client gets the answer it would have got."""

import os
import signal

import httpx
import pytest

from interrupted_streams import Question, interrupted, whole_answers
from running_proserve import RunningProserve

QUESTIONS = [Question(text=f"Question {number}", chat=number % 2 == 0, max_tokens=400) for number in range(60)]
HEADERS = {"authorization": "Bearer sk-demo-batch"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
async def test_all_streams_go_on_when_an_engine_dies_stops_or_hangs(
    own: RunningProserve, number: signal.Signals
) -> None:
    pids = {pid for pid, command in own.descendants().items() if " emulate " in command}
    victim = min(pids)

    async def kill(engines: list[str]) -> None:
        assert len(set(engines)) == 2
        os.kill(victim, number)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=own.http, headers=HEADERS, timeout=300, limits=limits) as client:
        expected = await whole_answers(client, QUESTIONS)
        try:
            said = await interrupted(client, QUESTIONS, kill, after_events=4)
        finally:
            if number == signal.SIGSTOP:
                os.kill(victim, signal.SIGCONT)
    assert [each.error for each in said] == [""] * len(QUESTIONS)
    assert [each.text for each in said] == expected
    assert {each.finish_reasons for each in said} == {("length",)}
    assert {each.completion_tokens for each in said} == {400}
    assert {each.ids for each in said} == {1}
    assert all(each.ended for each in said)
    async with httpx.AsyncClient(base_url=own.admin, timeout=120) as admin:
        metrics, status = (await admin.get("/metrics")).text, (await admin.get("/status")).json()
    continued = 'proserve_gateway_broken_streams_total{pool="tiny",result="continued"}'
    count = next(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(continued))
    assert 1 <= count <= len(QUESTIONS)
    assert all(engine["in_flight"] == 0 for engine in status["engines"])
