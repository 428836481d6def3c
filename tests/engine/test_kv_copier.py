"""Copies between the device's and the host's blocks, on tensors of the shapes that attention backends make."""

import pytest

pytest.importorskip("torch", reason="the engine environment is missing: make engine")

import threading
from typing import Any

import torch

from proserve_core.blocks import Reload
from proserve_engine.kv import cpu_copier
from proserve_engine.kv.cpu_copier import CpuCopier
from proserve_engine.kv.layers import KvLayers, LayoutError
from proserve_engine.kv.messages import CopyJob, StepCopies
from proserve_engine.kv.worker import CopyWorker
from proserve_engine.vllm.kv_worker import make_worker

BLOCKS = 10
LIMIT_S = 300
"""Of waits that end at once unless something is broken."""

SHAPES = {
    "keys and values in a block": (BLOCKS, 2, 3, 16, 8),
    "keys and values apart": (2, BLOCKS, 16, 3, 8),
    "smaller blocks of the kernel's own": (4 * BLOCKS, 2, 3, 4, 8),
    "both": (2, 4 * BLOCKS, 4, 3, 8),
}


def caches(shape: tuple[int, ...], layers: int = 3) -> dict[str, Any]:
    return {f"layer.{number}": torch.randn(shape, dtype=torch.bfloat16) for number in range(layers)}


def worker_for(kv: dict[str, Any], host_blocks: int = 6) -> CopyWorker:
    return make_worker(kv, BLOCKS, host_blocks)


def rows(kv: dict[str, Any], block: int) -> list[Any]:
    """The values of one block in all layers."""
    return [plane[block].clone() for layer in KvLayers(kv, BLOCKS).layers for plane in layer]


def same(one: list[Any], other: list[Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def step(worker: CopyWorker, layers: int = 3, **copies: Any) -> Any:
    copied = StepCopies(**copies)
    worker.before_step(copied)
    worker.start_restores(copied)
    for number in range(layers):
        worker.wait_for_layer(f"layer.{number}")
    worker.after_step()
    report = worker.report()
    return None if report is None else report()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("reload", Reload)
def test_blocks_come_back_to_other_places_as_they_were(shape: tuple[int, ...], reload: Reload) -> None:
    kv = caches(shape)
    worker = worker_for(kv)
    before = [rows(kv, block) for block in (7, 2, 5)]
    report = step(worker, flushes=(CopyJob(number=1, device=(7, 2, 5), host=(0, 4, 3)),))
    assert report.results[1].intact
    for cache in kv.values():
        cache.zero_()
    restores = (CopyJob(number=2, device=(1, 8), host=(0, 4)), CopyJob(number=3, device=(9,), host=(3,)))
    report = step(worker, restores=restores, reload=reload)
    assert {number: result.intact for number, result in report.results.items()} == {2: True, 3: True}
    assert all(same(rows(kv, block), was) for block, was in zip((1, 8, 9), before, strict=True))
    assert not any(plane[0].any() for layer in KvLayers(kv, BLOCKS).layers for plane in layer)
    worker.close()


def test_damage_of_one_byte_is_found_and_is_that_requests_alone() -> None:
    kv = caches(SHAPES["keys and values apart"])
    worker = worker_for(kv)
    step(worker, flushes=(CopyJob(number=1, device=(1, 2), host=(0, 1)),))
    copier = worker.copier
    assert isinstance(copier, CpuCopier)
    copier.host.layers[2][1][1].view(-1)[77] ^= 4
    restores = (CopyJob(number=2, device=(3,), host=(0,)), CopyJob(number=3, device=(4,), host=(1,)))
    report = step(worker, restores=restores)
    assert {number: result.intact for number, result in report.results.items()} == {2: True, 3: False}
    worker.close()


def test_a_copy_that_raises_is_reported_and_the_next_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = worker_for(caches(SHAPES["keys and values apart"]))
    with monkeypatch.context() as patch:
        patch.setattr(worker.copier, "copy_out", lambda *_: (_ for _ in ()).throw(RuntimeError("the link is down")))
        assert not step(worker, flushes=(CopyJob(number=1, device=(1,), host=(0,)),)).results[1].intact
    assert step(worker, flushes=(CopyJob(number=2, device=(1,), host=(0,)),)).results[2].intact
    with monkeypatch.context() as patch:
        patch.setattr(worker.copier, "copy_in", lambda *_: (_ for _ in ()).throw(RuntimeError("the link is down")))
        assert not step(worker, restores=(CopyJob(number=3, device=(2,), host=(0,)),)).results[3].intact
    assert step(worker, restores=(CopyJob(number=4, device=(2,), host=(0,)),)).results[4].intact
    worker.close()


def test_refused_host_memory_fails_every_copy_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise MemoryError("no")

    monkeypatch.setattr(cpu_copier.HostMemory, "__init__", refuse)
    worker = worker_for(caches(SHAPES["keys and values apart"]))
    report = step(worker, offloads=(CopyJob(number=1, device=(1,), host=(0,)),))
    assert not report.results[1].intact
    assert report.refused.endswith("no")


def test_a_layer_computes_while_the_next_one_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = worker_for(caches(SHAPES["keys and values apart"]))
    step(worker, flushes=(CopyJob(number=1, device=(1,), host=(0,)),))
    computed = [threading.Event() for _ in range(3)]
    copy_in = worker.copier.copy_in  # type: ignore[union-attr]

    def after_the_layer_before(number: int, device: Any, host: Any) -> Any:
        assert number == 0 or computed[number - 1].wait(LIMIT_S)
        return copy_in(number, device, host)

    monkeypatch.setattr(worker.copier, "copy_in", after_the_layer_before)
    copies = StepCopies(restores=(CopyJob(number=2, device=(2,), host=(0,)),))
    worker.before_step(copies)
    worker.start_restores(copies)
    for number, done in enumerate(computed):
        worker.wait_for_layer(f"layer.{number}")
        done.set()
    worker.after_step()
    report = worker.report()
    assert report is not None
    assert report().results[2].intact
    worker.close()


def test_a_cache_that_copies_know_nothing_of_is_refused() -> None:
    with pytest.raises(LayoutError, match="no dimension for 10 blocks"):
        KvLayers({"layer.0": torch.zeros((3, 7, 8))}, BLOCKS)


def test_layers_that_share_a_cache_are_copied_once() -> None:
    cache = torch.zeros(SHAPES["keys and values apart"])
    kv = KvLayers({"layer.0": cache, "layer.1": cache, "layer.2": cache.clone()}, BLOCKS)
    assert kv.number == {"layer.0": 0, "layer.1": 0, "layer.2": 1}
    assert kv.block_bytes == 2 * 2 * 16 * 3 * 8 * 4


def test_a_closed_worker_has_finished_its_copies_and_left_no_thread() -> None:
    kv = caches(SHAPES["keys and values apart"])
    before = {thread for thread in threading.enumerate() if thread.name.startswith("proserve-")}
    worker = worker_for(kv)
    worker.before_step(StepCopies(offloads=(CopyJob(number=1, device=(1, 2), host=(0, 1)),)))
    worker.close()
    report = worker.report()
    assert report is not None
    assert report().results[1].intact
    assert {thread for thread in threading.enumerate() if thread.name.startswith("proserve-")} == before
