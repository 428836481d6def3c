"""Whether an engine that answers its polls still computes.

Its HTTP server is another thread or process than what computes: when that deadlocks, or the GPU hangs, polls are
answered with what was true last, new requests are taken, and nothing comes of any. So an engine that has work is judged
by what it shows of it: tokens of our own requests, and anything in what it publishes that only its scheduler moves. One
request that gets nothing says nothing, since a scheduler may hold it back while others advance.

Time counts only while it is watched: of the time between two answered polls at most `LONGEST_GAP_S`, so that a gateway
that was paused itself, perhaps together with all engines, does not take its own absence for theirs.
"""

from proserve_core.routing import EngineView

LONGEST_GAP_S = 2.0
"""The longest time between two polls of an engine in a fleet of ordinary size."""
STUCK_S = 30.0
"""Longer than what holds up a sound engine: kernels compiled at their first use, media of a prompt fetched while no
other request is there (vLLM gives that 30 s at most, of which polls count less)."""
LONGER = 10.0
"""A step that takes this many times as long as the longest that was to be expected is none: predictions are off by tens
of percent, and by some times where an engine's speed is not known."""


class Progress:
    """Of one engine."""

    __slots__ = ("_looked_s", "_sign", "quiet_s")

    def __init__(self) -> None:
        self._sign: object = None
        self._looked_s = 0.0
        self.quiet_s = 0.0
        """For how long it has been watched to have work and to show nothing of it."""

    def look(self, sign: object, *, at_work: bool, worked_s: float, now_s: float) -> None:
        """A poll was answered.

        Args:
            sign: differs from the last one if the engine has computed since; None: it does not say.
            worked_s: when an own request there brought something last.
        """
        still = at_work and sign is not None and sign == self._sign and worked_s < self._looked_s
        self.quiet_s = self.quiet_s + min(now_s - self._looked_s, LONGEST_GAP_S) if still else 0.0
        self._sign, self._looked_s = sign, now_s


def longest_step_s(view: EngineView) -> float:
    """The longest that a step of this engine may be expected to take: the one that runs, or the longest prompt there
    at once."""
    snapshot = view.snapshot
    if snapshot is None:
        return 0.0
    prompts = [row.prefill_tokens for row in snapshot.rows]
    prompts += [entry.request.prompt_tokens for entry in view.dispatched.values()]
    prefill_s = snapshot.latency.constant_s + snapshot.latency.prefill_s(max(prompts, default=0))
    return max(snapshot.step_predicted_s or 0.0, prefill_s)
