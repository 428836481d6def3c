"""How long steps take, and the work of a scheduled step.

What matters for deadlines is how far apart tokens come out, so a step lasts from the result of the one before it to its
own: the model's time and what vLLM and the planner do between two steps. After an idle moment it lasts from where its
planning began. The same rule fits asynchronous scheduling, where two steps are in flight and the second starts only
when the first is done.
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
        self._last_result_s: float | None = None

    @property
    def running_since_s(self) -> float | None:
        """Since when the oldest step in flight runs; None while idle."""
        for _, _, began_s in self._in_flight.values():
            return began_s if self._last_result_s is None else self._last_result_s
        return None

    @property
    def running_predicted_s(self) -> float | None:
        """Predicted duration of the oldest step in flight; None while idle."""
        for _, predicted_s, _ in self._in_flight.values():
            return predicted_s
        return None

    def scheduled(self, output: object, work: StepWork, *, predicted_s: float, began_s: float) -> None:
        """A step starts whose planning began at `began_s`."""
        self._in_flight[id(output)] = (work, predicted_s, began_s)

    def result(self, output: object, now_s: float) -> FinishedStep | None:
        """The finished step; None for an output without work."""
        step = self._in_flight.pop(id(output), None)
        if step is None:
            return None
        work, predicted_s, began_s = step
        duration_s = now_s - (began_s if self._last_result_s is None else self._last_result_s)
        self._last_result_s = now_s
        return FinishedStep(work, predicted_s, duration_s)

    def idle(self) -> None:
        """Nothing is left to do: the next step does not follow the last one."""
        if not self._in_flight:
            self._last_result_s = None


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
