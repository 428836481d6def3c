"""What is kept of a cell, and the file that keeps it: one JSON object a line, appended as cells finish."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec

from proserve_core.batching.sliding_serve.predictor import Fidelity
from proserve_lab.report.latency_probe import Correction
from proserve_lab.report.urgent_probe import Moment
from proserve_lab.simulation.result import ClassFigures, KvFigures, PlanFigures

_LONGEST_LINE = 1_000_000
"""Bytes; no result comes near it."""


class StoreError(ValueError):
    """The results file is damaged; the message names file and line."""


class CellResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Figures of one cell."""

    key: str
    fingerprint: str
    """Of the code and data that decided them."""
    carried: int = 0
    """0: computed by this code. Else by an earlier version of it, and so many cells that were computed again, chosen at
    random, had the figures that they had before (`carry_over`)."""
    rate: float
    """Requests per second."""
    requests: int
    tdg_ratio: float
    slo_attainment: float = 0.0
    classes: dict[str, ClassFigures] = {}
    lost: dict[str, float] = {}
    """Share of the earnable gain lost, by cause."""
    steps: int = 0
    preemptions: int = 0
    plan_us: PlanFigures | None = None
    """CPU time."""
    simulated_s: float = 0.0
    cpu_s: float = 0.0
    """What the cell took."""
    timeline: tuple[Moment, ...] = ()
    fidelity: dict[str, Fidelity] = {}
    """Of a policy that predicts batch times itself, by kind of batch."""
    corrections: dict[str, Correction] = {}
    """How an online latency model did beside the policy, by kind of step."""
    busy_s: float = 0.0
    """Time in steps."""
    computed_tokens: int = 0
    recomputed_tokens: int = 0
    """Those of them that had been computed before and were lost."""
    kv: KvFigures | None = None
    """Of cells with blocks on the host."""
    note: str = ""


class ResultStore:
    """Results by key; the last line of a key counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, CellResult]:
        """All results; nothing if there is no file.

        A last line without its end is what an interrupted writer leaves, and is passed over.

        Raises:
            StoreError: another line is no result.
        """
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreError(f"{self.path}: cannot read the results: {error.strerror}") from error
        results: dict[str, CellResult] = {}
        for number, line in enumerate(lines, start=1):
            if number == len(lines) and not line.endswith(b"\n"):
                break
            try:
                result = msgspec.json.decode(line, type=CellResult)
            except msgspec.DecodeError as error:
                raise StoreError(
                    f"{self.path}:{number}: not a result ({error}): remove the line, its cell is then run again"
                ) from error
            results[result.key] = result
        return results

    def append(self, result: CellResult) -> None:
        """Add a result; on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            _drop_cut_line(file)
            file.write(_line(result))
            file.flush()
            os.fsync(file.fileno())

    def rewrite(self, results: Iterable[CellResult]) -> None:
        """Replace the file by these results: no line of it is outdated or cut off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.write_bytes(b"".join(map(_line, results)))
        fresh.replace(self.path)


def _drop_cut_line(file: BinaryIO) -> None:
    """Cut a file that is open for appending back to its last complete line."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _LONGEST_LINE)
    file.seek(start)
    tail = file.read()
    file.truncate(start + tail.rfind(b"\n") + 1)


def _line(result: CellResult) -> bytes:
    return msgspec.json.encode(result) + b"\n"
