"""What a client is told about its tenant's quotas: OpenAI's headers on every answer, and OpenAI's error beyond them."""

import math
from collections.abc import Sequence

from proserve_core.admission.quota import QuotaKind, QuotaRefusal, QuotaUse
from proserve_gateway.errors import ApiError

_WORDS = {
    QuotaKind.REQUESTS: "requests per minute",
    QuotaKind.TOKENS: "tokens per minute",
    QuotaKind.IN_FLIGHT: "requests in flight",
}
_HEADER_WORDS = {QuotaKind.REQUESTS: b"requests", QuotaKind.TOKENS: b"tokens"}
"""OpenAI has no header for requests in flight."""


class QuotaError(ApiError):
    """The tenant has used up one of its quotas, or asks for more than one holds."""


def over_quota(tenant: str, refusal: QuotaRefusal, uses: Sequence[QuotaUse]) -> QuotaError:
    """The request may be sent again later."""
    retry_after_s = max(refusal.retry_after_s, 0.001)
    share = "" if refusal.share == 1 else f" (a {refusal.share}th of it, while the quota store is out of reach)"
    error = QuotaError(
        status=429,
        code="rate_limit_exceeded",
        # OpenAI's word for what ran out.
        error_type="tokens" if refusal.kind is QuotaKind.TOKENS else "requests",
        message=f"tenant {tenant} reached its limit on {_WORDS[refusal.kind]}: limit {refusal.limit}{share}, "
        f"used {math.ceil(refusal.used)}, requested {refusal.asked}; try again in {_duration(retry_after_s)}",
        retry_after_s=retry_after_s,
    )
    error.headers = (*quota_headers(uses), (b"retry-after-ms", b"%d" % math.ceil(1e3 * retry_after_s)))
    error.exhausted = f"tenant:{tenant}"
    return error


def beyond_quota(tenant: str, prompt_tokens: int, limit: int) -> QuotaError:
    """The request can never be served: not a 429, which clients send again and again."""
    error = QuotaError(
        status=400,
        code="request_exceeds_quota",
        error_type="invalid_request_error",
        message=f"the prompt has at least {prompt_tokens} tokens, and tenant {tenant} may use {limit} tokens per "
        "minute: it never fits; send a shorter prompt, or ask whoever runs this gateway for a higher limit",
    )
    error.exhausted = f"tenant:{tenant}"
    return error


def quota_headers(uses: Sequence[QuotaUse]) -> list[tuple[bytes, bytes]]:
    """`x-ratelimit-*` as OpenAI sends them."""
    headers = []
    for use in uses:
        word = _HEADER_WORDS.get(use.kind)
        if word is not None:
            headers += [
                (b"x-ratelimit-limit-" + word, b"%d" % use.limit),
                (b"x-ratelimit-remaining-" + word, b"%d" % use.remaining),
                (b"x-ratelimit-reset-" + word, _duration(use.reset_s).encode()),
            ]
    return headers


def _duration(seconds: float) -> str:
    """`1m30s`, `12s` or `250ms`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1e3)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
