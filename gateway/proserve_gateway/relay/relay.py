"""An engine's event stream on its way to the client, whatever the events are: what `Answer` needs of it."""

from typing import Protocol

from proserve_gateway.errors import ApiError
from proserve_gateway.relay.sse import SseError
from proserve_gateway.relay.token_trail import TokenTrail


class Relay(Protocol):
    """One stream. Feed it what comes from the engine; it returns what goes to the client, in whole events."""

    trail: TokenTrail | None
    """Takes the ids of tokens; None: the stream can't go on elsewhere."""
    tokens: int
    """Output tokens so far."""
    fresh: dict[int, int] | None
    """Of several choices: the tokens of each since the reader last cleared this. None: there is one choice."""
    prompt_tokens: int | None
    done: bool
    """The stream is complete."""
    failure: SseError | None
    """What is wrong with the event after those that were returned last. Without its traceback, and whoever raises it
    raises a copy: frames refer to the relay and to the request's body, which only the garbage collector could free."""

    @property
    def finished(self) -> bool:
        """The client has got all tokens and the reason to finish."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Events that are complete and right, as the client gets them; sets `failure` when the next one is not."""
        ...

    def restart(self) -> None:
        """Another engine goes on with the stream: forget half an event and what was wrong."""
        ...

    def broken_off(self, failure: ApiError, reported: bytes) -> bytes:
        """The end of a stream that failed, which nobody can take for its natural end. `reported`: the engine's own
        error object, if it sent one."""
        ...
