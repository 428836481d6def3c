"""Whose blocks `recoverable-gain` takes where the host keeps copies: the least loss, with the way back charged.

`blocks.victims` has the rule. What a resident would still bring after a preemption is its recoverable gain with the
time that it takes to be back added to its lateness, the same by which it competes as a waiting request afterwards;
`price` is the gain per engine second of the densest prompt that waits, 0 if there is none: where blocks are short, it
may not be time that is. Equal losses, mostly none at all: the hopeless go first, then the order's tail. Measured beside
who is back soonest, and beside the tail whatever it loses: docs/blocks.md.
"""

from collections.abc import Sequence

import numpy as np

from proserve_core.batching.gain_density import Pace, Prospects, value_when_ready
from proserve_core.batching.lengths import LengthTable
from proserve_core.batching.request_columns import Index, Mask, RequestColumns
from proserve_core.batching.state import RequestState
from proserve_core.blocks.victims import VictimCandidate, choose_victims


class VictimChoice:
    """Chooses among the residents of one step. Nothing is worked out before somebody lacks blocks.

    Args:
        price: of an engine second.
        kept: by resident; these give blocks to other residents only.
    """

    def __init__(
        self,
        columns: RequestColumns,
        worth: Prospects,
        pace: Pace,
        lengths: LengthTable,
        profiles: Index,
        *,
        price: float,
        kept: Mask,
    ) -> None:
        self._columns = columns
        self._worth = worth
        self._pace = pace
        self._lengths = lengths
        self._profiles = profiles
        self._price = price
        self._kept = kept
        self._candidates: dict[str, tuple[bool, VictimCandidate]] | None = None

    def choose(
        self, pool: Sequence[RequestState], *, blocks: int, newcomer: RequestState, whatever: bool
    ) -> tuple[RequestState, ...]:
        """Those of `pool`, most important first, that lose theirs so that `newcomer` has `blocks` more; nobody if it is
        not worth it.

        Args:
            whatever: it is worth it in any case, as nothing else runs.
        """
        offers = self._offers()
        candidates = [
            candidate
            for kept, candidate in (offers[request.id] for request in pool)
            if newcomer.resident or whatever or not kept
        ]
        # The last ones are taken first.
        candidates.sort(key=lambda candidate: candidate.value <= 0)
        found = choose_victims(candidates, blocks=blocks, price=self._price)
        if found is None or (found.loss > self._worth.value[self._columns.place(newcomer.id)] and not whatever):
            return ()
        chosen = set(found.request_ids)
        return tuple(request for request in pool if request.id in chosen)

    def _offers(self) -> dict[str, tuple[bool, VictimCandidate]]:
        if self._candidates is None:
            columns, worth = self._columns, self._worth
            places = np.arange(columns.residents)
            return_s = columns.return_s
            ready_s = np.maximum(return_s / self._pace.prefill_share, self._pace.decode_step_s)
            back = value_when_ready(columns, places, ready_s, worth, self._pace, self._lengths, self._profiles)
            figures = zip(
                columns.requests(places),
                self._kept.tolist(),
                worth.value.tolist(),
                back.tolist(),
                worth.cost_s.tolist(),
                return_s.tolist(),
                strict=False,
            )
            self._candidates = {
                request.id: (
                    kept,
                    VictimCandidate(
                        request_id=request.id,
                        blocks=request.blocks - request.copying_blocks,
                        value=value,
                        value_back=min(value, value_back),
                        rest_s=rest_s,
                        return_s=back_s,
                    ),
                )
                for request, kept, value, value_back, rest_s, back_s in figures
            }
        return self._candidates
