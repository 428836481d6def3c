"""Learns how long the steps of an engine take that publishes no capacity, from the streams that pass.

Any engine of today batches continuously: each running stream gets one token a step. So the time between two tokens of
one stream, the witness, is a step, and its work is known: a token of each of the others that decode, and the prompts
of those whose first token came with it. That is what `latency.online` learns from in our own engines, on the engine's
clock; here the network's jitter comes on top, and requests of others at the same engine make it look slower, which for
this gateway it is.
"""

from collections.abc import Mapping

from proserve_core.latency.model import LatencyModel, StepWork
from proserve_core.latency.online import OnlineLatency
from proserve_core.routing.state import Dispatched

EVERY = 2
"""Every so many steps one is learned from: that costs some tens of microseconds."""
TOGETHER = 0.25
"""Tokens of one step come one after the other: within this share of a step after the witness's they are of its step."""


class StepWatch:
    """Watches one engine."""

    def __init__(self, initial: LatencyModel) -> None:
        """Start from `initial`, however far off it is."""
        self._fit = OnlineLatency(initial, publish_every=16)
        self._witness: str | None = None
        self._last_s = 0.0
        """When its last token came."""
        self._seen: _Step | None = None
        """The step that it ended."""
        self._prompts: list[Dispatched] = []
        """Requests whose first token came since, with a step that has not ended."""
        self._steps = 0

    @property
    def latency(self) -> LatencyModel:
        return self._fit.model

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
        self._steps += 1
        changed = False
        if seen is not None and self._steps % EVERY == 0:
            changed = self._fit.observe(seen.work(), seen.duration_s)
        # Several tokens at once are several steps, or were held up on their way: which, is not known.
        self._seen = None if count != 1 else _Step(at_s - self._last_s, self._prompts, dispatched)
        self._last_s, self._prompts = at_s, []
        return changed


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
