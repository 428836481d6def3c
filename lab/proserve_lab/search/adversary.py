"""The search: random specifications at first, then changes to the worst ones found.

A specification is tried on one seed; if the policy loses there, on `CONFIRM_SEEDS` more, and only their mean counts:
the first seed was picked because it is bad. Every try is a line of the log, and a search that finds its log goes on
where that ends; equal seeds and equal policies give equal searches.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from proserve_lab.search.regret import OTHERS, Regret, regret
from proserve_lab.search.spec import WorkloadSpec
from proserve_lab.search.variation import changed, random_spec

CONFIRM_SEEDS = (101, 102, 103)
PROMISING = 0.003
"""Regret on the first seed from which on the others are tried."""
KEPT = 12
"""Worst specifications from which further ones are bred."""
_RANDOM_SHARE = 0.35
_WARM_UP = 40
"""Rounds of random specifications before the first change."""
_FIRST_SEED = 1


class LogError(ValueError):
    """The log belongs to another search or is damaged."""


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log."""

    round: int
    spec: WorkloadSpec
    first: float
    """Regret on the first seed; -1 where it could not reach `PROMISING`."""
    confirmed: Regret | None = None


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    """First line of the log."""

    policy: str
    seed: int


def search(
    *,
    policy: str,
    rounds: int,
    seed: int,
    others: Sequence[str] = OTHERS,
    log: Path | None = None,
    progress: Callable[[Try], None] | None = None,
) -> list[Try]:
    """Tries with a confirmed regret, worst first, after `rounds` rounds in all, those of the log included.

    Raises:
        LogError: the log is of another policy or seed.
        OSError: the log can't be read or written.
        PolicyError: there is no such policy.
    """
    tries = _resume(log, _Head(policy=policy, seed=seed))
    for number in range(len(tries), rounds):
        draw = random.Random(f"{seed}:{number}")
        worst = ranked(tries)[:KEPT]
        if number < _WARM_UP or not worst or draw.random() < _RANDOM_SHARE:
            spec = random_spec(draw)
        else:
            spec = changed(draw.choice(worst).spec, draw)
        tried = _try(number, spec, policy, others)
        tries.append(tried)
        if log is not None:
            with log.open("ab") as file:
                file.write(msgspec.json.encode(tried) + b"\n")
        if progress is not None:
            progress(tried)
    return ranked(tries)


def ranked(tries: Sequence[Try]) -> list[Try]:
    """Confirmed ones, largest mean regret first."""
    confirmed = [(item.confirmed.mean, item) for item in tries if item.confirmed is not None]
    return [item for _, item in sorted(confirmed, key=lambda pair: (-pair[0], pair[1].round))]


def _try(number: int, spec: WorkloadSpec, policy: str, others: Sequence[str]) -> Try:
    first = regret(spec, ours=policy, seeds=(_FIRST_SEED,), others=others, at_least=PROMISING)
    if first is None or first.mean < PROMISING:
        return Try(round=number, spec=spec, first=-1.0 if first is None else first.mean)
    confirmed = regret(spec, ours=policy, seeds=CONFIRM_SEEDS, others=others)
    return Try(round=number, spec=spec, first=first.mean, confirmed=confirmed)


def _resume(log: Path | None, head: _Head) -> list[Try]:
    if log is None:
        return []
    if not log.exists():
        log.write_bytes(msgspec.json.encode(head) + b"\n")
        return []
    first, *lines = log.read_bytes().splitlines()
    try:
        found = msgspec.json.decode(first, type=_Head)
        tries = [msgspec.json.decode(line, type=Try) for line in lines]
    except msgspec.DecodeError as error:
        raise LogError(f"{log}: not a log of this search: {error}; name another file") from error
    if found != head:
        raise LogError(
            f"{log}: is the log of policy {found.policy!r} with seed {found.seed}, "
            f"not of {head.policy!r} with seed {head.seed}; name another file"
        )
    return tries
