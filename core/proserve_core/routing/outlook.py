"""One engine as gain-aware routers judge it: who would be served before a new request, and who after it.

Source: the per-replica view of `late-gain` (docs/routing.md). Queued prefills stand in the order in which the engine
will work them off, with prefix sums of their cost: an engine whose policy ranks by recoverable gain serves a newcomer
after those whose gain density is higher, and only they delay it; total backlog says little in overload, where most of
it will never run before the newcomer. Any other engine serves it last.

The queue drains as time passes, at the share of time that decodes leave. What was sent since the snapshot joins the
queue when it was sent, after the queue has drained until then: dead reckoning.
"""

from bisect import bisect_right
from itertools import accumulate

import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_core.routing.engine_profile import EngineProfile

RANKING_POLICIES = frozenset({"recoverable-gain"})
"""Engine policies that work off prefills in the order of their gain density."""
LEAST_SHARE = 0.1
"""Least share of time left for prefills, however many decodes run."""
LEAST_STEP_S = 1e-6
"""A fitted latency model may have coefficients of 0."""
STEP_SHARE = 0.8
"""Steps take this share of the tightest TPOT: how often their constant is paid."""


class Queued(msgspec.Struct, frozen=True, gc=False):
    """One prefill that waits in an engine."""

    density: float
    """Gain left if it were computed at once, per second of engine time."""
    prefill_s: float
    """Engine time of the prompt."""
    deadline_s: float
    full: float
    """Gain if everything is on time."""
    token_gain: float
    rest: float
    """Expected tokens."""
    tpot_s: float
    load: float
    """Share of engine time that its decode will take."""


class Decodes(msgspec.Struct, frozen=True, gc=False):
    """Requests that decode on an engine, an entry each."""

    due_s: NDArray[np.float64]
    """Deadline of the next token."""
    token_gain: NDArray[np.float64]
    rest: NDArray[np.float64]
    """Expected tokens."""
    tpot_s: NDArray[np.float64]


class EngineOutlook:
    """State of one engine at `at_s`, on the gateway's clock."""

    __slots__ = (
        "_behind",
        "age_from_s",
        "at_s",
        "decode_step_s",
        "decodes",
        "decodes_s",
        "free_blocks",
        "free_sequences",
        "from_s",
        "keys",
        "load",
        "name",
        "profile",
        "prompts_s",
        "queue",
        "queued_load",
        "ranks",
        "share",
        "step_end_s",
        "step_s",
        "sums_s",
    )

    def __init__(
        self,
        *,
        name: str,
        profile: EngineProfile,
        ranks: bool,
        at_s: float,
        snapshot_s: float,
        step_end_s: float,
        step_s: float,
        decode_step_s: float,
        load: float,
        decodes_s: float,
        tightest_tpot_s: float,
        free_blocks: int,
        free_sequences: int,
    ) -> None:
        self.name = name
        self.profile = profile
        self.ranks = ranks
        """The engine works off prefills by gain density."""
        self.at_s = at_s
        """From when on `queue` is worked off."""
        self.age_from_s = snapshot_s
        """Since when nothing certain is known of it: the snapshot, or the first request since to an idle engine."""
        self.step_end_s = step_end_s
        """When the running step ends."""
        self.step_s = step_s
        """How long steps take."""
        self.load = load
        """Share of time that decodes take."""
        self.decodes_s = decodes_s
        """Time that a token of each of them takes."""
        self.decodes: Decodes | None = None
        """Each of them whose tokens are seen, where prompts make them wait: on an engine that does not rank."""
        self.from_s = at_s
        """When their next tokens were due as `decodes` says."""
        self.prompts_s = 0.0
        """Engine time of all prompts since then, done or not."""
        self.decode_step_s = max(LEAST_STEP_S, decode_step_s)
        """How long a step with all of them and no prompt takes."""
        self.queued_load = 0.0
        """Share that the decodes of what is queued will take."""
        self.share = max(LEAST_SHARE, 1 - load - profile.latency.constant_s / (STEP_SHARE * tightest_tpot_s))
        """Share of time left for prefills."""
        self.free_blocks = free_blocks
        """Less those that everything queued will take; negative when it does not fit."""
        self.free_sequences = free_sequences
        self.queue: list[Queued] = []
        self.keys: list[float] = []
        """Negative, so that they grow."""
        self.sums_s: list[float] = [0.0]
        """Prefix sums of time: `sums_s[i]` is taken by the first i."""
        self._behind: NDArray[np.float64] | None = None

    def place(self, density: float) -> int:
        """How many of the queue would be served first."""
        return bisect_right(self.keys, -density) if self.ranks else len(self.keys)

    @property
    def queued_s(self) -> float:
        """Time that the whole queue takes."""
        return self.sums_s[-1]

    @property
    def free_at_s(self) -> float:
        """When an engine that computes prompts as soon as it has them has done all of them."""
        return self.at_s + self.queued_s * self.share

    def behind(self, place: int) -> NDArray[np.float64]:
        """Those that would be served later, as columns: finish, deadline, full gain, token gain, rest, TPOT."""
        if self._behind is None:
            rows = [
                (self.at_s + end_s, item.deadline_s, item.full, item.token_gain, item.rest, item.tpot_s)
                for item, end_s in zip(self.queue, self.sums_s[1:], strict=True)
            ]
            self._behind = np.array(rows, dtype=np.float64).reshape(-1, 6).T
        return self._behind[:, place:]

    def fill(self, queue: list[Queued]) -> None:
        """The queue of the snapshot, in order of arrival."""
        self.queue = sorted(queue, key=lambda item: -item.density) if self.ranks else queue
        self.queued_load = sum([item.load for item in queue])
        self.prompts_s = sum([item.prefill_s for item in queue])
        self._index()

    def add(self, item: Queued, sent_s: float, blocks: int) -> None:
        """A request was sent at `sent_s`, which is not before any sent earlier."""
        if sent_s > self.at_s:
            self._drain(sent_s)
        place = self.place(item.density)
        self.queue.insert(place, item)
        self.prompts_s += item.prefill_s
        self.queued_load += item.load
        self.free_blocks -= blocks
        self.free_sequences -= 1
        self._index()

    def _drain(self, until_s: float) -> None:
        """Take what is done by `until_s` off the queue."""
        elapsed_s = until_s - self.at_s
        self.at_s = until_s
        if not self.queue:
            if self.load == 0:
                self.age_from_s = max(self.age_from_s, until_s)
            return
        done = bisect_right(self.sums_s, elapsed_s) - 1
        for item in self.queue[:done]:
            self.load += item.load
            self.decodes_s += item.load * item.tpot_s
            self.queued_load -= item.load
        del self.queue[:done]
        if self.queue:
            first = self.queue[0]
            rest_s = first.prefill_s - (elapsed_s - self.sums_s[done]) * self.share
            self.queue[0] = msgspec.structs.replace(first, prefill_s=max(0.0, rest_s))

    def _index(self) -> None:
        share = self.share
        self.keys = [-item.density for item in self.queue]
        self.sums_s = [0.0, *accumulate([item.prefill_s / share for item in self.queue])]
        self._behind = None
