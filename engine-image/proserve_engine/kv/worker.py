"""A worker's part in a step's copies, around its forward pass. What copies is the platform's copier."""

import time
from collections.abc import Mapping
from threading import Event
from typing import Protocol

from proserve_core.blocks import Reload
from proserve_engine.kv.messages import CopyJob, CopyReport, CopyResult, StepCopies


class Copier(Protocol):
    """Moves blocks between device and host."""

    def offload(self, job: CopyJob) -> Event: ...

    def restore(self, jobs: tuple[CopyJob, ...]) -> None: ...

    def wait_for_layer(self, number: int) -> None: ...

    def wait_for_restores(self) -> None: ...

    def ended(self) -> dict[int, CopyResult]: ...

    def close(self) -> None: ...


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
        self._restoring = False
        self._waited_s = 0.0
        self._flushed_s = 0.0

    def before_step(self, copies: StepCopies) -> None:
        """Before the worker writes to any block."""
        if self.copier is None:
            for job in (*copies.flushes, *copies.offloads, *copies.restores):
                self._failed[job.number] = CopyResult(intact=False, copy_s=0.0)
            return
        if copies.flushes:
            began_s = time.perf_counter()
            for done in [self.copier.offload(job) for job in copies.flushes]:
                done.wait()
            self._flushed_s += time.perf_counter() - began_s
        for job in copies.offloads:
            self.copier.offload(job)

    def start_restores(self, copies: StepCopies) -> None:
        """Before the forward pass."""
        if self.copier is None or not copies.restores:
            return
        self.copier.restore(copies.restores)
        self._restoring = True
        if copies.reload is Reload.BLOCKING:
            self._wait_for_restores()

    def wait_for_layer(self, name: str) -> None:
        """Before a layer reads its KV cache."""
        if self._restoring and self.copier is not None:
            began_s = time.perf_counter()
            self.copier.wait_for_layer(self._layers[name])
            self._waited_s += time.perf_counter() - began_s

    def after_step(self) -> None:
        """After the forward pass: whatever it did not wait for must have ended, too, before it is reported."""
        if self._restoring:
            self._wait_for_restores()

    def report(self) -> CopyReport | None:
        """What there is to say since the last call; None if nothing."""
        results, self._failed = self._failed, {}
        if self.copier is not None:
            results |= self.copier.ended()
        if not results:
            return None
        report = CopyReport(results=results, waited_s=self._waited_s, flushed_s=self._flushed_s, refused=self._refused)
        self._waited_s = self._flushed_s = 0.0
        return report

    def close(self) -> None:
        if self.copier is not None:
            self.copier.close()

    def _wait_for_restores(self) -> None:
        if self.copier is None:
            return
        began_s = time.perf_counter()
        self.copier.wait_for_restores()
        self._waited_s += time.perf_counter() - began_s
        self._restoring = False
