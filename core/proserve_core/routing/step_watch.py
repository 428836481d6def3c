"""Learns how long the steps of an engine take that publishes no capacity, from the streams that pass.

Any engine of today batches continuously: each running stream gets one token a step. So the time between two tokens of
one stream, the witness, is a step, and its work is known: a token of each of the others that decode, and the prompts
of those whose first token came with it. That is what `latency.online` learns from in our own engines, on the engine's
clock; here the network's jitter comes on top, and requests of others at the same engine make it look slower, which for
this gateway it is.

Before that, what is known of other engines is stretched to the median of the first steps: an engine may be a hundred
times slower than any of them, and in the time that the fit takes to believe that it would have got all that there is.
"""

from collections.abc import Mapping
from statistics import median

import msgspec

from proserve_core.latency.model import LatencyModel, StepWork
from proserve_core.latency.online import OnlineLatency
from proserve_core.routing.state import Dispatched

FIRST_STEPS = 5
EVERY_S = 0.05
"""Later, not more than one step in this time is learned from: that costs some tens of microseconds."""
PUBLISH_EVERY = 4
"""Steps learned from until there is a new model; an engine of which much is to be learned takes long steps."""
TOGETHER = 0.25
"""Tokens of one step come one after the other: within this share of a step after the witness's they are of its step."""


class StepWatch:
    """Watches one engine."""

    def __init__(self, initial: LatencyModel) -> None:
        """Start from the proportions of `initial`, however far off it is."""
        self._initial = initial
        self._ratios: list[float] = []
        """How much longer than `initial` says the first steps took."""
        self._fit: OnlineLatency | None = None
        self._witness: str | None = None
        self._last_s = 0.0
        """When its last token came."""
        self._seen: _Step | None = None
        """The step that it ended."""
        self._prompts: list[Dispatched] = []
        """Requests whose first token came since, with a step that has not ended."""
        self._learned_s = 0.0

    @property
    def latency(self) -> LatencyModel | None:
        """None before the first steps."""
        return None if self._fit is None else self._fit.model

    def tokens(self, entry: Dispatched, count: int, at_s: float, dispatched: Mapping[str, Dispatched]) -> bool:
        """The engine emitted `count` tokens of a request, which `entry` does not count yet; `dispatched` are all
        requests there. True when `latency` changed."""
        request_id, seen = entry.request.id, self._seen
        if request_id != self._witness:
            if self._witness not in dispatched:
                self._witness, self._last_s, self._seen, self._prompts = request_id, at_s, None, []
            elif not entry.emitted_tokens:
                together = seen is not None and at_s - self._last_s < TOGETHER * seen.duration_s
                (seen.prompts if seen is not None and together else self._prompts).append(entry)
            return False
        changed = seen is not None and self._learn(seen, at_s)
        # Several tokens at once are several steps, or were held up on their way: which, is not known.
        self._seen = None if count != 1 else _Step(at_s - self._last_s, self._prompts, dispatched)
        self._last_s, self._prompts = at_s, []
        return changed

    def _learn(self, step: "_Step", at_s: float) -> bool:
        if self._fit is not None and at_s - self._learned_s < EVERY_S:
            return False
        self._learned_s = at_s
        work = step.work()
        if self._fit is not None:
            return self._fit.observe(work, step.duration_s)
        predicted_s = self._initial.step_s(work)
        if predicted_s > 0 and step.duration_s > 0:
            self._ratios.append(step.duration_s / predicted_s)
        if len(self._ratios) < FIRST_STEPS:
            return False
        self._fit = OnlineLatency(_stretched(self._initial, median(self._ratios)), publish_every=PUBLISH_EVERY)
        return True


def _stretched(latency: LatencyModel, factor: float) -> LatencyModel:
    return LatencyModel(**{name: value * factor for name, value in msgspec.structs.asdict(latency).items()})


class _Step:
    """A step that ended, and what it was made of."""

    __slots__ = ("_context", "_decodes", "duration_s", "prompts")

    def __init__(self, duration_s: float, prompts: list[Dispatched], dispatched: Mapping[str, Dispatched]) -> None:
        self.duration_s = duration_s
        self.prompts = prompts
        begun = {entry.request.id for entry in prompts}
        decoding = [e for name, e in dispatched.items() if e.emitted_tokens and name not in begun]
        self._decodes = len(decoding)
        self._context = sum([entry.request.prompt_tokens + entry.emitted_tokens for entry in decoding])

    def work(self) -> StepWork:
        tokens, attention = self._decodes, 0.0
        for entry in self.prompts:
            new = entry.request.prompt_tokens - entry.cached_tokens
            tokens += new
            attention += new * (new + 2.0 * entry.cached_tokens)
        return StepWork(
            new_tokens=tokens,
            attention=attention,
            decode_context=self._context,
            sequences=self._decodes + len(self.prompts),
        )
