"""At which rate of a trace's requests an engine is saturated: load 1.0 of the report.

The rate at which the engine work that falls due while requests arrive equals the time in which they arrive. Counting
all work instead would call an engine saturated by outputs that end long after the last arrival: of 1,200 requests of
the reasoning trace, 43 hold 42% of the tokens.

With X the arrival window, per request its whole prompt and the k decode tokens whose deadlines lie before X:
`sum(g1*p + c*p^2 + e + k*(g1 + e + d*(p + k/2))) = X * (1 - (host + g0)/TPOT)`; the right side is what steps of one
TPOT leave for work. The floor of small steps is not counted: at saturation steps are beyond the knee.
"""

from collections.abc import Sequence

import numpy as np

from proserve_core.latency import LatencyModel
from proserve_core.objectives import ServiceObjectives
from proserve_lab.trace import TraceRow

_HALVINGS = 60


def saturation_rate(
    rows: Sequence[TraceRow], *, latency: LatencyModel, objectives: ServiceObjectives, all_work: bool = False
) -> float:
    """Requests per second of `rows` that saturate one engine, arrivals stretched evenly.

    Args:
        all_work: count tokens that fall due after the last arrival as well: what saturates an engine in the long run,
            for outputs so long that hardly any falls due while a few hundred requests arrive.

    Raises:
        ValueError: the rows have no span, or a step's constant takes the whole TPOT.
    """
    arrivals_s = np.array([row.arrival_s for row in rows])
    arrivals_s -= arrivals_s[0]
    span_s = float(arrivals_s[-1])
    room = 1 - latency.constant_s / objectives.tpot_s
    if span_s <= 0 or room <= 0:
        raise ValueError(
            f"saturation needs arrivals that span time (span {span_s:g} s) and a TPOT above the step constant "
            f"{latency.constant_s:g} s (TPOT {objectives.tpot_s:g} s)"
        )
    prompts = np.array([row.prompt_tokens for row in rows], dtype=float)
    decodes = np.array([row.output_tokens - 1 for row in rows], dtype=float)
    prefill_s = float(np.sum(latency.linear_token_s * prompts + latency.attention_s * prompts**2 + latency.sequence_s))

    def load(window_s: float) -> float:
        """Due work over available time when requests arrive within `window_s`."""
        left_s = window_s - arrivals_s * (window_s / span_s) - objectives.ttft_s
        due = decodes if all_work else np.clip(np.floor(left_s / objectives.tpot_s), 0.0, decodes)
        token_s = latency.linear_token_s + latency.sequence_s + latency.context_s * (prompts + due / 2)
        return (prefill_s + float(np.sum(due * token_s))) / (window_s * room)

    short_s = long_s = prefill_s / room
    while load(long_s) > 1:
        long_s *= 2
    for _ in range(_HALVINGS):
        middle_s = (short_s + long_s) / 2
        if load(middle_s) > 1:
            short_s = middle_s
        else:
            long_s = middle_s
    return (len(rows) - 1) / long_s
