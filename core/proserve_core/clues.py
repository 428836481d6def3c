"""What is known of a request before it runs and tells how long its output may become."""

import msgspec


class LengthClues(msgspec.Struct, frozen=True, kw_only=True):
    """Clues to the length of one request's output. Each may be missing."""

    client: str = ""
    """Who sent it: the tenant, or the column `client` of a trace."""
    prefix: str = ""
    """Identifies the first tokens of the prompt: requests with the same system prompt share it."""
    max_tokens: int | None = None
    """Limit that the client asked for; the output never gets longer."""


NO_CLUES = LengthClues()
