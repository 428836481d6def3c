"""A request's record as lines for people: where it went and why, what was expected and what came, what was lost."""

import datetime

from proserve_core.request_record import Alternative, Attempt, RequestRecord

SHOWN = 8
"""Alternatives of one choice."""


def story(record: RequestRecord) -> list[str]:
    """Lines without an end, times in seconds after the request's arrival."""
    terms, objectives = record.terms, record.terms.objectives
    arrived = datetime.datetime.fromtimestamp(record.arrived_unix_s, datetime.UTC)
    lines = [
        f"request {record.id} of tenant {record.tenant}, class {terms.priority_class} (weight {terms.weight:g}), "
        f"model {record.model} in pool {record.pool}",
        f"  arrived {arrived:%Y-%m-%d %H:%M:%S} UTC; {_prompt(record)}; {_answer(record)}",
        f"  due: first token after {objectives.ttft_s:.3f} s, then {1e3 * objectives.tpot_s:.3g} ms per token",
    ]
    told_first = False
    sent_tokens = 0
    for attempt in record.attempts:
        lines += _sent(attempt)
        sent_tokens += attempt.tokens
        if sent_tokens and not told_first:
            told_first = True
            lines.append(_first_token(record, attempt))
        if attempt.failure:
            lines.append(
                f"             engine {attempt.engine} failed ({attempt.failure}) after {attempt.tokens} tokens"
            )
    return [*lines, *_end(record)]


def _prompt(record: RequestRecord) -> str:
    if record.prompt_tokens is None:
        return f"about {record.expected_prompt_tokens} prompt tokens"
    return f"{record.prompt_tokens} prompt tokens (expected {record.expected_prompt_tokens})"


def _answer(record: RequestRecord) -> str:
    limit = "" if record.max_tokens is None else f", at most {record.max_tokens}"
    several = "" if record.choices == 1 else f" in {record.choices} choices"
    return f"{record.output_tokens} tokens out{several} (expected {record.expected_output_tokens:.0f}{limit})"


def _sent(attempt: Attempt) -> list[str]:
    waited = f" after waiting {attempt.waited_s:.3f} s for an engine" if attempt.waited_s >= 0.001 else ""
    served_as = f" as class {attempt.served_as}" if attempt.served_as else ""
    lines = [f"  {attempt.sent_s:8.3f} s  sent to {attempt.engine}{served_as}{waited}: {attempt.reason}"]
    expected = _expected(attempt.expected_ttft_s, attempt.expected_gain)
    if expected:
        lines.append(f"             expected there: {expected}")
    others = [other for other in attempt.alternatives if other.engine != attempt.engine]
    if others:
        shown = "; ".join(_alternative(other) for other in others[:SHOWN])
        more = f"; and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        lines.append(f"             instead of {shown}{more}")
    return lines


def _alternative(other: Alternative) -> str:
    expected = _expected(other.expected_ttft_s, other.expected_gain)
    return f"{other.engine} ({expected})" if expected else other.engine


def _expected(ttft_s: float | None, gain: float | None) -> str:
    parts = []
    if ttft_s is not None:
        parts.append(f"first token after {ttft_s:.3f} s")
    if gain is not None:
        parts.append(f"gain {gain:.4g}")
    return ", ".join(parts)


def _first_token(record: RequestRecord, attempt: Attempt) -> str:
    ttft_s = record.ttft_s or 0.0
    late_s = ttft_s - record.terms.objectives.ttft_s
    verdict = f"{late_s:.3f} s late" if late_s >= 0 else "in time"
    expected = "" if attempt.expected_ttft_s is None else f", expected after {attempt.expected_ttft_s:.3f} s"
    return f"  {ttft_s:8.3f} s  first token from {attempt.engine}: {verdict}{expected}"


def _end(record: RequestRecord) -> list[str]:
    if record.ended_s is None:
        lines = [f"             under way: {'no token yet' if record.ttft_s is None else 'its tokens are coming'}"]
    else:
        error = f" ({record.error})" if record.error else " (the client left)" if record.status == 499 else ""
        lines = [f"  {record.ended_s:8.3f} s  ended with status {record.status}{error}"]
        if record.why:
            lines.append(f"             {record.why}")
    if not record.earned and not record.lost:
        return lines
    lost = sum(record.lost.values())
    lines.append(f"  gain: {record.earned:.6g} earned of {record.earned + lost:.6g}")
    lines += [f"  lost: {gain:.6g} to {cause}" for cause, gain in sorted(record.lost.items(), key=lambda one: -one[1])]
    return lines
