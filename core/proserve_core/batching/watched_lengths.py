"""Length tables that notice when outputs are suddenly others, and then learn those of kinds anew.

Why: what is learned of bands and classes serves requests that tell nothing of their client. These tables remember a
thousand outputs, and after a sudden change wrong lengths are worse than none (docs/batching.md). When outputs have
drifted from what was foreseen (`length_drift`), all bands and classes begin anew, leaning on the table of all requests:
what changed one band changes the others as well more often than not, and each would have to show it by itself.

Apart from `lengths`, because bounds of the report take its bands from there and stay what they are.
"""

import numpy as np

from proserve_core.batching.length_counts import LengthCounts
from proserve_core.batching.length_drift import LengthDrift
from proserve_core.batching.lengths import BAND_EDGES, LengthTable, band_of
from proserve_core.batching.output_bins import Column, Index, locate, locate_one
from proserve_core.batching.request_columns import Mask
from proserve_core.batching.state import RequestState

KNOWN_OUTPUTS = 100
"""Of a band whose answers can be told to be wrong: the standard error of its mean is then 10%, a third of what
`LengthDrift` puts up with."""
_KINDS = frozenset({"band", "asked"})
_BAND_LINK, _SENDER_LINK = 1, 3


class WatchedLengths(LengthTable):
    """A `LengthTable` whose tables of kinds are forgotten when they are wrong."""

    def __init__(self, counts: LengthCounts | None = None) -> None:
        super().__init__(counts)
        self._drift = LengthDrift(len(BAND_EDGES) + 1)
        self._bands = np.zeros(0, dtype=np.intp)
        """By profile: band of the prompts."""

    def profile(self, request: RequestState) -> int:
        row = super().profile(request)
        if row >= len(self._bands):
            self._bands = np.append(self._bands, np.zeros(len(self._chains) - len(self._bands), dtype=np.intp))
        self._bands[row] = band_of(request.prompt_tokens)
        return row

    def saw_tokens(self, profiles: Index, since: Column, until: Column) -> None:
        super().saw_tokens(profiles, since, until)
        judged = self._judged(profiles).nonzero()[0]
        if len(judged):
            profiles, since, until = profiles[judged], since[judged], until[judged]
            self._drift.aged(self._bands[profiles], self._age(profiles, since), self._age(profiles, until))

    def saw_more(self, profile: int, since: int, until: int) -> None:
        super().saw_more(profile, since, until)
        if self._judges(profile):
            since_age, until_age = self._age_of(profile, since), self._age_of(profile, until)
            self._drift.aged(self._bands[profile : profile + 1], np.array([since_age]), np.array([until_age]))

    def saw_end(self, profile: int, emitted: int) -> None:
        super().saw_end(profile, emitted)
        judged = emitted > 0 and self._judges(profile)
        if judged and self._drift.ended(int(self._bands[profile]), self._age_of(profile, emitted)):
            self._forget_kinds()

    def _judged(self, profiles: Index) -> Mask:
        """Whose outputs tell whether the tables of kinds are wrong: requests that have no other, once those are known.

        The tables of clients and prefixes forget by themselves before long, and the outputs of a client come in runs of
        like length, which would look like a change of the whole band.
        """
        chains = self._chains[profiles]
        known = self._events[chains[:, _BAND_LINK]].sum(axis=1) >= KNOWN_OUTPUTS
        judged: Mask = known & (chains[:, _SENDER_LINK] == 0) & (self._whole[profiles] > 0)
        return judged

    def _judges(self, profile: int) -> bool:
        """`_judged` of one."""
        chain = self._chains[profile]
        return bool(
            chain[_SENDER_LINK] == 0
            and self._whole[profile] > 0
            and np.add.reduce(self._events[chain[_BAND_LINK]]) >= KNOWN_OUTPUTS
        )

    def _age_of(self, profile: int, emitted: int) -> float:
        """`_age` of one."""
        at, inside = locate_one(emitted)
        log_survival, log_stay, _, _ = map(float, self._answers[profile, at])
        return -(log_survival + inside * log_stay)

    def _age(self, profiles: Index, emitted: Column) -> Column:
        """Ends foreseen until so many tokens were emitted."""
        bins, inside = locate(emitted)
        log_survival, log_stay, _, _ = self._in_bins(profiles, bins)
        age: Column = -(log_survival + inside * log_stay)
        return age

    def _forget_kinds(self) -> None:
        slots = [slot for key, slot in self._tables.items() if key[0] in _KINDS]
        self._events[slots] = self._exposure[slots] = 0.0
