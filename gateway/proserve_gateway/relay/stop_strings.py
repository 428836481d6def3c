"""Stop strings across a seam: what an engine does about them inside one stream, done by the gateway for the rest.

An engine with stop strings holds back as much text as may turn out to be the beginning of one (vLLM: the length of the
longest, less one). What the first engine held back never came, so the second one's text has to follow after it, and a
stop string may begin in the one and end in the other.
"""

from collections.abc import Sequence

from proserve_gateway.relay.sse import SseError


class StopStrings:
    """Text on its way to the client, searched for stop strings."""

    __slots__ = ("_again", "_held", "_keep", "_stops")

    def __init__(self, stops: Sequence[str], held: str, again: str = "") -> None:
        """`held` is text that was generated and not sent; `again`, text that was sent and is generated once more."""
        self._stops = [stop for stop in stops if stop]
        self._keep = kept_chars(stops)
        self._held = held
        self._again = again

    def feed(self, text: str, *, last: bool) -> tuple[str, str | None]:
        """What can be sent after `text` came, and the stop string that ended it, if one did.

        `last`: there will be no more, so nothing is held back.

        Raises:
            SseError: what was sent already is not generated once more.
        """
        out, stop = self._searched(text, last=last)
        if not self._again:
            return out, stop
        again = self._again[: len(out)]
        self._again = self._again[len(again) :]
        if not out.startswith(again) or (self._again and (last or stop is not None)):
            raise SseError("the tokens that it generated anew are not those that were sent")
        return out[len(again) :], stop

    def _searched(self, text: str, *, last: bool) -> tuple[str, str | None]:
        held = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            # The one that is complete first, as if the text had come one character at a time.
            _, at, stop = min(found)
            self._held = ""
            return held[:at], stop
        sent = len(held) if last else max(0, len(held) - self._keep)
        self._held = held[sent:]
        return held[:sent], None


def kept_chars(stops: Sequence[str]) -> int:
    """Characters that are held back for stop strings."""
    return max((len(stop) for stop in stops), default=1) - 1 if any(stops) else 0
