"""Worst cases as files: kept as regression workloads, and handed to whoever mends the policy."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from proserve_lab.search.adversary import CONFIRM_SEEDS, Try
from proserve_lab.search.spec import WorkloadSpec


class CaseError(ValueError):
    """The file is not a case; the message names it and what is wrong."""


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A specification on which a policy was found to lose."""

    policy: str
    best: str
    """Policy that earned most."""
    regret: float
    """Of `policy` against `best`, mean over `seeds`."""
    seeds: tuple[int, ...]
    cause: str = ""
    """Why, in a sentence, once somebody has found out."""
    spec: WorkloadSpec


def read_case(path: Path) -> Case:
    """Read one file.

    Raises:
        CaseError: it can't be read or is no case.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Case)
    except (OSError, msgspec.DecodeError) as error:
        raise CaseError(f"{path}: cannot read the case: {error}") from error


def write_cases(tries: Sequence[Try], *, policy: str, seed: int, folder: Path) -> list[Path]:
    """One file per confirmed try.

    Raises:
        OSError: the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for item in tries:
        if item.confirmed is None:
            continue
        case = Case(
            policy=policy,
            best=item.confirmed.best,
            regret=round(item.confirmed.mean, 4),
            seeds=CONFIRM_SEEDS,
            spec=item.spec,
        )
        path = folder / f"{policy}-{seed}-{item.round}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(case), indent=2) + b"\n")
        written.append(path)
    return written
