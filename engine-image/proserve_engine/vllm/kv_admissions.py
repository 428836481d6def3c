"""What residents started from, and since when it is known to be there.

The KV that a request has when it is admitted may be on its way only: vLLM's prefix cache gives it blocks that others
fill in the same step or the one before, and blocks from the host come back while the step runs. Once the step that
admits it is over, all of that has happened.
"""

from typing import Any


class Admissions:
    """Of one engine's residents."""

    def __init__(self) -> None:
        self._had_tokens: dict[str, int] = {}

    def admitted(self, request: Any, had_tokens: int) -> None:
        """vLLM has given the request blocks; the KV of its first `had_tokens` is not computed for it."""
        self._had_tokens[request.request_id] = had_tokens

    def ended(self, request: Any) -> None:
        """vLLM is done with the request."""
        self._had_tokens.pop(request.request_id, None)

    def computed_tokens(self, request: Any) -> int:
        """Tokens of a resident whose KV is certainly there; 0 as long as the step that admits it is not over."""
        over: int = request.num_computed_tokens - request.num_in_flight_tokens
        # That step computes at least one token.
        return over if over > self._had_tokens.get(request.request_id, 0) else 0

    def unproven(self, request: Any) -> bool:
        """Whether the resident started from KV of which it is not known yet that it arrived."""
        return self._had_tokens.get(request.request_id, 0) > 0 and not self.computed_tokens(request)
