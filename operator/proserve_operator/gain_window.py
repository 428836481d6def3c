"""Gain of the last minutes, over all gateways, from reports whose sums only grow. Pure.

Minutes are buckets of what was added, so memory depends on what was served lately and not on how often gateways are
asked. A gateway that is new counts from its second report on: its first may hold hours. One that is silent for a
while counts from its last report before, so that what it served meanwhile is not lost.
"""

from collections.abc import Iterable, Mapping

import msgspec

from proserve_core.gain import GainTotals
from proserve_core.gain_report import GainReport, added

BUCKET_S = 60.0
BUCKETS = 10
WINDOW_TEXT = "10m"

Subject = tuple[str, str]
"""What gain is about: `class`, `tenant` or `pool` and its name; `pool NAME`, and a class."""


class Mark(msgspec.Struct, frozen=True):
    """A moment in the sums of a subject."""

    bucket: int
    totals: GainTotals
    """Of the bucket, until then."""


class GainWindow:
    """Sums by subject over `BUCKETS` minutes."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, dict[Subject, GainTotals]]] = {}
        """Newest sums by gateway, and when they came; as old as the window at most."""
        self._reporting = False
        self._buckets: dict[int, dict[Subject, GainTotals]] = {}
        self._came: dict[Subject, int] = {}
        """Of those that a gateway still tells of."""

    def take(self, reports: Iterable[GainReport], *, now_s: float) -> None:
        """The newest report of each gateway that answers."""
        number = int(now_s // BUCKET_S)
        self._buckets = {each: sums for each, sums in self._buckets.items() if each > number - BUCKETS}
        bucket = self._buckets.setdefault(number, {})
        oldest_s = now_s - BUCKETS * BUCKET_S
        self._before = {instance: entry for instance, entry in self._before.items() if entry[0] > oldest_s}
        self._reporting = False
        for report in reports:
            self._reporting = True
            sums = _subjects(report)
            known = self._before.get(report.instance)
            self._before[report.instance] = now_s, sums
            if known is None:
                continue
            _, before = known
            for subject, totals in sums.items():
                more = added(before.get(subject, GainTotals()), totals)
                if more.requests or more.earnable:
                    bucket.setdefault(subject, GainTotals()).merge(more)
                    self._came[subject] = self._came.get(subject, 0) + more.requests
        told = set().union(*(sums for _, sums in self._before.values()))
        self._came = {subject: count for subject, count in self._came.items() if subject in told}

    @property
    def reporting(self) -> bool:
        """Whether any gateway answered last time."""
        return self._reporting

    def came(self, subject: Subject) -> int:
        """Requests that have ended since this process began to read."""
        return self._came.get(subject, 0)

    def totals(self, subject: Subject) -> GainTotals:
        """Sums of the window."""
        return self.recent(subject, buckets=BUCKETS)

    def recent(self, subject: Subject, *, buckets: int, since: Mark | None = None) -> GainTotals:
        """Sums of its last `buckets` minutes, the running one included, without what came before `since`."""
        sums = GainTotals()
        for number in sorted(self._buckets)[-buckets:]:
            totals = self._buckets[number].get(subject)
            if totals is None or (since is not None and number < since.bucket):
                continue
            sums.merge(added(since.totals, totals) if since is not None and number == since.bucket else totals)
        return sums

    def mark(self, subject: Subject) -> Mark | None:
        """This moment; None: there are no sums yet."""
        if not self._buckets:
            return None
        number, totals = max(self._buckets), GainTotals()
        if (known := self._buckets[number].get(subject)) is not None:
            totals.merge(known)
        return Mark(number, totals)

    def classes_of(self, pool: str) -> list[str]:
        """Classes that a pool served in the window."""
        name = pool_subject(pool)
        return sorted({each for sums in self._buckets.values() for of, each in sums if of == name})


def pool_subject(pool: str) -> str:
    """Where the classes of a pool are."""
    return f"pool {pool}"


def _subjects(report: GainReport) -> dict[Subject, GainTotals]:
    sums: dict[Subject, GainTotals] = {}
    named: Mapping[str, Mapping[str, GainTotals]] = {"class": report.classes, "tenant": report.tenants}
    for what, totals in named.items():
        sums.update({(what, name): each for name, each in totals.items()})
    for pool, classes in report.pools.items():
        whole = sums["pool", pool] = GainTotals()
        for name, each in classes.items():
            sums[pool_subject(pool), name] = each
            whole.merge(each)
    return sums
