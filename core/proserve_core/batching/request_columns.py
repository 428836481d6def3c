"""All requests of a step as columns, residents first: what `recoverable-gain` computes with."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_core.batching.lengths import BAND_EDGES
from proserve_core.batching.resident_table import ResidentTable
from proserve_core.batching.state import EngineState, RequestState
from proserve_core.batching.waiting_table import WaitingTable, WaitingView

Column = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.intp]


class RequestColumns(msgspec.Struct, frozen=True, kw_only=True):
    """One entry per request; seconds and tokens."""

    slack_s: Column
    """Time to the next token's deadline; negative when it is past."""
    tpot_s: Column
    next_gain: Column
    """Gain of the next token."""
    token_gain: Column
    """Gain of each token after the first."""
    context: Column
    """Prompt and emitted tokens."""
    emitted: Column
    prefill_s: Column
    """Marginal time of all that is to be computed before the next token; 0 for a decode."""
    decode: Mask
    band: Index
    """Of the prompt's length."""


class ColumnReader:
    """Turns engine states into columns; keeps between steps what does not change."""

    def __init__(self) -> None:
        self._residents = ResidentTable()
        self._waiting = WaitingTable()
        self._view: WaitingView | None = None
        self._waiting_context = np.empty(0)
        self._waiting_band = np.empty(0, dtype=np.intp)

    def read(self, state: EngineState, *, residents: list[RequestState], waiting: list[RequestState]) -> RequestColumns:
        """Columns of `residents`, then of `waiting`."""
        latency, now_s = state.latency, state.now_s
        view = self._residents.view(residents)
        emitted, computed = view.emitted, view.computed
        context = view.prompt + emitted
        pending = context - computed
        decode = (pending == 1) & (emitted > 0)
        prefill_s = latency.linear_token_s * pending + latency.sequence_s
        prefill_s += latency.attention_s * pending * (pending + 2 * computed)
        mine = RequestColumns(
            slack_s=view.first_deadline_s + emitted * view.tpot_s - now_s,
            tpot_s=view.tpot_s,
            next_gain=np.where(emitted > 0, view.token_gain, view.first_gain),
            token_gain=view.token_gain,
            context=context,
            emitted=emitted,
            prefill_s=np.where(decode, 0.0, prefill_s),
            decode=decode,
            band=_bands(view.prompt),
        )
        if not waiting:
            self._waiting.clear()
            return mine
        queue = self._waiting.view(waiting=waiting, residents=residents)
        if queue is not self._view:
            self._view = queue
            self._waiting_context = queue.pending + queue.computed
            self._waiting_band = _bands(self._waiting_context - queue.emitted)
        both = np.concatenate
        return RequestColumns(
            slack_s=both((mine.slack_s, queue.deadline_s - now_s)),
            tpot_s=both((mine.tpot_s, queue.tpot_s)),
            next_gain=both((mine.next_gain, queue.gain)),
            token_gain=both((mine.token_gain, queue.token_gain)),
            context=both((mine.context, self._waiting_context)),
            emitted=both((mine.emitted, queue.emitted)),
            prefill_s=both((mine.prefill_s, queue.est_s(latency))),
            decode=both((mine.decode, np.zeros(len(waiting), dtype=np.bool_))),
            band=both((mine.band, self._waiting_band)),
        )


def _bands(prompt: Column) -> Index:
    return np.searchsorted(BAND_EDGES, prompt, side="right")
