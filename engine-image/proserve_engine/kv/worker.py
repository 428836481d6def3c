"""A worker's part in a step's copies, around its forward pass. What copies is the platform's copier."""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from proserve_core.blocks import Reload
from proserve_engine.kv.messages import CopyJob, CopyReport, CopyResult, Report, StepCopies

_logger = logging.getLogger("vllm.proserve")


class Copier(Protocol):
    """Moves blocks between device and host. "Computed" is what the caller has the device do, in that order."""

    def flush(self, jobs: Sequence[CopyJob]) -> None:
        """Copy to the host what has been computed so far; whatever is computed next comes after it."""

    def offload(self, jobs: Sequence[CopyJob]) -> None:
        """Copy to the host what has been computed so far, whenever there is time."""

    def restore(self, jobs: Sequence[CopyJob]) -> None:
        """Begin to copy to the device, all layers of the step's restores one after the other."""

    def wait_for_layer(self, number: int) -> None:
        """Whatever is computed next comes after the step's restores in this layer."""

    def wait_for_restores(self) -> None:
        """The same for all layers."""

    def after_step(self) -> None:
        """The forward pass has been launched. Whatever is computed next comes after the step's restores."""

    def report(self) -> Report | None:
        """Of the copies that have ended and of the step's restores, each once; None if there are none."""

    def close(self) -> None:
        """End all copies and give the memory back."""


class CopyWorker:
    """Begins copies, waits where the forward pass needs them, and reports.

    Args:
        copier: None if there is no host memory; every copy fails then.
        refused: why not.
        layers: place of each layer by its name.
    """

    def __init__(self, copier: Copier | None, layers: Mapping[str, int], *, refused: str = "") -> None:
        self.copier = copier
        self._layers = layers
        self._refused = refused
        self._failed: dict[int, CopyResult] = {}
        self._restoring: tuple[CopyJob, ...] = ()
        self._unasked: set[int] = set()
        """Layers that have not waited for the step's restores yet."""
        self._layerwise = True

    def before_step(self, copies: StepCopies) -> None:
        """Before the worker writes to any block."""
        if self.copier is None:
            self._fail((*copies.flushes, *copies.offloads, *copies.restores))
            return
        if copies.flushes:
            self.copier.flush(copies.flushes)
        if copies.offloads:
            self.copier.offload(copies.offloads)

    def start_restores(self, copies: StepCopies, *, layerwise: bool = True) -> None:
        """Before the forward pass.

        Args:
            layerwise: each layer of it is going to call `wait_for_layer`.
        """
        if self.copier is None or not copies.restores:
            return
        self.copier.restore(copies.restores)
        if copies.reload is Reload.PIPELINED and layerwise and self._layerwise:
            self._restoring = copies.restores
            self._unasked = set(self._layers.values())
        else:
            self.copier.wait_for_restores()

    def wait_for_layer(self, name: str) -> None:
        """Before a layer reads its KV cache."""
        if self._restoring and self.copier is not None:
            number = self._layers[name]
            self._unasked.discard(number)
            self.copier.wait_for_layer(number)

    def after_step(self) -> None:
        """After the forward pass; more than once for a step does no harm."""
        if self.copier is not None:
            self.copier.after_step()
        if self._unasked:
            self._layerwise = False
            self._fail(self._restoring)
            _logger.error(
                "%d layers did not wait for KV blocks from the host: what they computed is dropped, and from here on "
                "steps begin when all blocks are there, as with reload Blocking",
                len(self._unasked),
            )
        self._restoring = ()
        self._unasked = set()

    def report(self) -> Report | None:
        """What there is to say since the last call; None if nothing."""
        failed, self._failed = self._failed, {}
        copied = None if self.copier is None else self.copier.report()
        if copied is None:
            refused = self._refused
            return (lambda: CopyReport(results=failed, refused=refused)) if failed else None
        if not failed:
            return copied
        return lambda: _with_failures(copied(), failed)

    def close(self) -> None:
        if self.copier is not None:
            self.copier.close()

    def _fail(self, jobs: Sequence[CopyJob]) -> None:
        for job in jobs:
            self._failed[job.number] = CopyResult(intact=False, copy_s=0.0)


def _with_failures(report: CopyReport, failed: Mapping[int, CopyResult]) -> CopyReport:
    return msgspec.structs.replace(report, results={**report.results, **failed})
