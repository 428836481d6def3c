"""How long steps take: the work of a scheduled step, and the time between its schedule and its result.

A step runs from the end of `schedule()` to the start of `update_from_output()` for the same output. With asynchronous
scheduling two steps are in flight, and the second only starts when the first is done: its time counts from the later of
its schedule and the first one's result.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from proserve_core.latency import StepWork


class FinishedStep(msgspec.Struct, frozen=True):
    """A step whose result is in."""

    work: StepWork
    predicted_s: float
    duration_s: float


class StepClock:
    """Pairs scheduled steps with their results. Times are on the caller's clock."""

    def __init__(self) -> None:
        self._in_flight: dict[int, tuple[StepWork, float, float]] = {}
        self._last_result_s = float("-inf")

    @property
    def running_since_s(self) -> float | None:
        """Since when the oldest step in flight runs; None while idle."""
        for _, _, scheduled_s in self._in_flight.values():
            return max(scheduled_s, self._last_result_s)
        return None

    @property
    def running_predicted_s(self) -> float | None:
        """Predicted duration of the oldest step in flight; None while idle."""
        for _, predicted_s, _ in self._in_flight.values():
            return predicted_s
        return None

    def scheduled(self, output: object, work: StepWork, predicted_s: float, now_s: float) -> None:
        self._in_flight[id(output)] = (work, predicted_s, now_s)

    def result(self, output: object, now_s: float) -> FinishedStep | None:
        """The finished step; None for an output without work."""
        step = self._in_flight.pop(id(output), None)
        if step is None:
            return None
        work, predicted_s, scheduled_s = step
        duration_s = now_s - max(scheduled_s, self._last_result_s)
        self._last_result_s = now_s
        return FinishedStep(work, predicted_s, duration_s)


def work_of(num_scheduled_tokens: Mapping[str, int], requests: Mapping[str, Any], decode_tokens: int) -> StepWork:
    """Sums over a scheduled step, after vLLM has advanced the computed tokens of its requests.

    Args:
        decode_tokens: most tokens of one decode: 1, more with speculative decoding.
    """
    new_tokens = attention = context = 0
    for request_id, tokens in num_scheduled_tokens.items():
        request = requests[request_id]
        before = request.num_computed_tokens - tokens
        new_tokens += tokens
        if tokens <= decode_tokens and before >= request.num_prompt_tokens:
            context += before
        else:
            attention += tokens * (tokens + 2 * before)
    return StepWork(
        new_tokens=new_tokens, attention=attention, decode_context=context, sequences=len(num_scheduled_tokens)
    )
