"""How gain came over the last hour: the books' sums, noted at intervals.

Gain is booked when a request ends, so an interval holds the requests that ended in it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

from proserve_core.gain import GainLedger, GainTotals
from proserve_core.gain_report import added
from proserve_core.gain_status import GainReply, GainSeries, GainStatus

EVERY_S = 5.0
KEPT_S = 3600.0
WINDOWS_S: Mapping[str, float] = {"1m": 60.0, "5m": 300.0, "1h": 3600.0}
ALL = "all"
_NOTHING = GainTotals()


class GainHistory:
    """Sums by class, as they were."""

    def __init__(self, ledger: GainLedger, *, clock: Callable[[], float]) -> None:
        """`clock` tells seconds since 1970."""
        self._ledger = ledger
        self._clock = clock
        self._notes: deque[tuple[float, dict[str, GainTotals]]] = deque(maxlen=round(KEPT_S / EVERY_S) + 1)
        self.note()

    def note(self) -> None:
        """Remember the sums of now; to be called every `EVERY_S`."""
        self._notes.append((self._clock(), self._ledger.by_class()))

    def reply(self, classes: Iterable[str], *, seconds: float) -> GainReply:
        """What `/gain` answers; `classes` are in it even if nothing of them has ended."""
        now_s, sums = self._clock(), self._ledger.by_class()
        names = [*dict.fromkeys([*classes, *sums])]
        windows = {label: self._since(now_s - window_s, sums, names) for label, window_s in WINDOWS_S.items()}
        windows[ALL] = {name: GainStatus.of(sums.get(name, GainTotals())) for name in names}
        notes = [note for note in self._notes if note[0] >= now_s - seconds]
        series = {name: GainSeries(earned=[], earnable=[]) for name in names}
        for (_, before), (_, after) in pairwise(notes):
            for name, one in series.items():
                part = added(before.get(name, _NOTHING), after.get(name, _NOTHING))
                one.earned.append(part.earned)
                one.earnable.append(part.earnable)
        return GainReply(windows=windows, ends_unix_s=[at_s for at_s, _ in notes[1:]], series=series)

    def _since(self, start_s: float, sums: Mapping[str, GainTotals], names: Iterable[str]) -> dict[str, GainStatus]:
        # The newest note that is old enough; none is: all there is.
        start = next((totals for at_s, totals in reversed(self._notes) if at_s <= start_s), self._notes[0][1])
        return {name: GainStatus.of(added(start.get(name, _NOTHING), sums.get(name, _NOTHING))) for name in names}
