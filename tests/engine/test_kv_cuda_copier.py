"""The order of copies on a GPU, with streams that do everything as late and as oddly as streams may."""

import pytest

pytest.importorskip("torch", reason="the engine environment is missing: make engine")

from typing import Any

import numpy as np
import torch

from kv_caches import LAYOUTS, kv_caches
from odd_engine import OddEngine
from odd_streams import OddStreams
from proserve_core.blocks import Reload
from proserve_engine.kv.cuda_copier import CudaCopier
from proserve_engine.kv.layers import KvLayers
from proserve_engine.kv.messages import CopyJob, CopyReport, StepCopies
from proserve_engine.kv.worker import CopyWorker

BLOCKS = 10
LAYERS = 3
ORDERS = range(60)
STEPS = 12


def run(seed: int, *, layout: str = "tokens before heads", **options: Any) -> OddEngine:
    """A pretended engine for some steps."""
    streams = OddStreams(seed, **options)
    engine = OddEngine(streams, kv_caches(layout, BLOCKS, LAYERS), blocks=BLOCKS, host_blocks=8, seed=seed)
    for number in range(STEPS):
        engine.step(reload=Reload.BLOCKING if number % 4 == 3 else Reload.PIPELINED)
    engine.drain()
    return engine


def worker_for(streams: OddStreams, caches: dict[str, Any], host_blocks: int = 6) -> CopyWorker:
    kv = KvLayers(caches, BLOCKS)
    return CopyWorker(CudaCopier(kv, host_blocks, streams), kv.number)


def step(worker: CopyWorker, *, layers: int = LAYERS, **copies: Any) -> CopyReport:
    copied = StepCopies(**copies)
    worker.before_step(copied)
    worker.start_restores(copied)
    for number in range(layers):
        worker.wait_for_layer(f"layer.{number}")
    worker.after_step()
    report = worker.report()
    assert report is not None
    return report()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_read_too_early_or_overwritten_too_soon_in_any_order(layout: str) -> None:
    restored = 0
    for seed in ORDERS:
        engine = run(seed, layout=layout)
        assert engine.wrong == []
        restored += engine.restored
        engine.worker.close()
    assert restored > len(ORDERS)


@pytest.mark.parametrize(
    "without",
    [
        pytest.param(("out", "compute"), id="to-the-host-before-it-is-computed"),
        pytest.param(("check", "compute"), id="summed-up-before-it-is-computed"),
        pytest.param(("compute", "out"), id="a-victims-blocks-given-away-while-they-are-copied"),
        pytest.param(("back", "compute"), id="to-the-device-while-a-step-in-flight-uses-the-blocks"),
        pytest.param(("compute", "back"), id="read-before-it-is-back"),
        pytest.param(("check", "back"), id="checked-before-it-is-back"),
        pytest.param(("compute", "check"), id="overwritten-before-it-is-checked"),
    ],
)
def test_each_wait_is_needed(without: tuple[str, str]) -> None:
    assert any(run(seed, without=[without]).wrong for seed in ORDERS)


def test_the_host_waits_for_nothing_before_a_report_is_asked_for() -> None:
    streams = OddStreams()
    worker = worker_for(streams, kv_caches("tokens before heads", BLOCKS, LAYERS))
    step(worker, flushes=(CopyJob(number=1, device=(1, 2), host=(0, 1)),))
    waits = streams.waits
    copies = StepCopies(
        flushes=(CopyJob(number=2, device=(3,), host=(2,)),),
        offloads=(CopyJob(number=3, device=(4,), host=(3,)),),
        restores=(CopyJob(number=4, device=(5, 6), host=(0, 1)),),
    )
    worker.before_step(copies)
    worker.start_restores(copies)
    for number in range(LAYERS):
        worker.wait_for_layer(f"layer.{number}")
    worker.after_step()
    report = worker.report()
    assert streams.waits == waits
    assert report is not None
    results = report().results
    # What no step waited for is reported when it happens to be over.
    assert {number: result.intact for number, result in results.items()} == {2: True, 4: True}


def test_a_layer_computes_while_the_next_one_arrives() -> None:
    streams = OddStreams()
    caches = kv_caches("tokens before heads", BLOCKS, LAYERS)
    worker = worker_for(streams, caches)
    for cache in caches.values():
        cache[1] = 5
    step(worker, flushes=(CopyJob(number=1, device=(1,), host=(0,)),))
    copies = StepCopies(restores=(CopyJob(number=2, device=(7,), host=(0,)),))
    worker.before_step(copies)
    worker.start_restores(copies)
    arrived = []
    for number in range(LAYERS):
        worker.wait_for_layer(f"layer.{number}")
        streams.finish(streams.record(streams.compute))
        arrived.append([bool((cache[7] == 5).all()) for cache in caches.values()])
    assert arrived == [[True, False, False], [True, True, False], [True, True, True]]


def test_damage_of_one_byte_is_found_and_is_that_requests_alone() -> None:
    streams = OddStreams()
    caches = kv_caches("keys and values apart", BLOCKS, LAYERS)
    worker = worker_for(streams, caches)
    for cache in caches.values():
        cache.normal_()
    step(worker, flushes=(CopyJob(number=1, device=(1, 2), host=(0, 1)),))
    copier = worker.copier
    assert isinstance(copier, CudaCopier)
    copier.mirror.memory[-1][1, 77] ^= 4
    restores = (CopyJob(number=2, device=(3,), host=(0,)), CopyJob(number=3, device=(4,), host=(1,)))
    report = step(worker, restores=restores)
    assert {number: result.intact for number, result in report.results.items()} == {2: True, 3: False}


def test_a_copy_that_raises_is_reported_and_the_next_one_works() -> None:
    streams = OddStreams()
    worker = worker_for(streams, kv_caches("tokens before heads", BLOCKS, LAYERS))
    streams.broken = True
    report = step(
        worker,
        flushes=(CopyJob(number=1, device=(1,), host=(0,)),),
        offloads=(CopyJob(number=2, device=(2,), host=(1,)),),
        restores=(CopyJob(number=3, device=(3,), host=(2,)),),
    )
    assert {number: result.intact for number, result in report.results.items()} == {1: False, 2: False, 3: False}
    streams.broken = False
    assert step(worker, flushes=(CopyJob(number=4, device=(1,), host=(0,)),)).results[4].intact
    assert step(worker, restores=(CopyJob(number=5, device=(2,), host=(0,)),)).results[5].intact


def test_layers_that_do_not_wait_cost_the_restore_and_are_not_relied_on_again() -> None:
    streams = OddStreams()
    worker = worker_for(streams, kv_caches("tokens before heads", BLOCKS, LAYERS))
    step(worker, flushes=(CopyJob(number=1, device=(1,), host=(0,)),))
    report = step(worker, layers=0, restores=(CopyJob(number=2, device=(2,), host=(0,)),))
    assert not report.results[2].intact
    report = step(worker, layers=0, restores=(CopyJob(number=3, device=(3,), host=(0,)),))
    assert report.results[3].intact


def test_a_step_that_is_one_graph_begins_when_all_blocks_are_back() -> None:
    streams = OddStreams()
    caches = kv_caches("tokens before heads", BLOCKS, LAYERS)
    worker = worker_for(streams, caches)
    caches["layer.2"][1] = 5
    step(worker, flushes=(CopyJob(number=1, device=(1,), host=(0,)),))
    copies = StepCopies(restores=(CopyJob(number=2, device=(7,), host=(0,)),))
    worker.before_step(copies)
    worker.start_restores(copies, layerwise=False)
    streams.finish(streams.record(streams.compute))
    assert (caches["layer.2"][7] == 5).all()
    worker.after_step()
    report = worker.report()
    assert report is not None
    assert report().results[2].intact


def test_time_that_the_computation_waits_is_told_apart_from_time_that_copies_take() -> None:
    streams = OddStreams()
    worker = worker_for(streams, kv_caches("tokens before heads", BLOCKS, LAYERS))
    report = step(worker, flushes=(CopyJob(number=1, device=(1, 2), host=(0, 1)),))
    assert report.results[1].copy_s > 0
    assert report.flushed_s > 0
    assert report.waited_s == 0
    restores = (CopyJob(number=2, device=(3,), host=(0,)), CopyJob(number=3, device=(4,), host=(1,)))
    report = step(worker, restores=restores)
    assert report.waited_s > 0
    assert report.flushed_s == 0
    assert report.results[2].copy_s == report.results[3].copy_s > 0


@pytest.mark.parametrize(
    ("layout", "to_host", "back"),
    [
        ("tokens before heads", LAYERS, [1] * LAYERS),
        ("keys and values apart", 2 * LAYERS, [2] * LAYERS),
        ("layers of a block side by side", 1, [1]),
        ("heads outside", 2 * LAYERS, [2] * LAYERS),
    ],
)
def test_neighbours_on_both_sides_are_one_piece(layout: str, to_host: int, back: list[int]) -> None:
    streams = OddStreams()
    worker = worker_for(streams, kv_caches(layout, BLOCKS, LAYERS))
    step(worker, flushes=(CopyJob(number=1, device=(4, 5, 3), host=(1, 2, 0)),))
    assert streams.pieces == [to_host]
    streams.pieces.clear()
    step(worker, restores=(CopyJob(number=2, device=(7, 8, 9), host=(0, 1, 2)),))
    assert streams.pieces == back


def test_layers_side_by_side_come_back_together_until_pieces_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = kv_caches("layers of a block side by side", BLOCKS, LAYERS)
    layer_bytes = caches["layer.0"][0].nbytes
    monkeypatch.setattr("proserve_engine.kv.copy_plan.LARGE_PIECE_BYTES", 2 * layer_bytes)
    streams = OddStreams()
    worker = worker_for(streams, caches)
    step(worker, flushes=(CopyJob(number=1, device=(1, 5), host=(0, 3)),))
    streams.pieces.clear()
    report = step(worker, restores=(CopyJob(number=2, device=(2, 7), host=(0, 3)),))
    assert report.results[2].intact
    # Two layers of each block, then the third.
    assert streams.pieces == [2, 2]


def test_sums_do_not_depend_on_how_many_blocks_are_summed_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proserve_engine.kv.cuda_copier.SCRATCH_BYTES", 1)
    streams = OddStreams()
    caches = kv_caches("tokens before heads", BLOCKS, LAYERS)
    for cache in caches.values():
        cache.normal_()
    worker = worker_for(streams, caches)
    step(worker, flushes=(CopyJob(number=1, device=(1, 2, 3), host=(0, 1, 2)),))
    copier = worker.copier
    assert isinstance(copier, CudaCopier)
    planes = [plane for layer in KvLayers(caches, BLOCKS).layers for plane in layer]
    expected = [[int(plane[block].view(torch.int64).sum()) for block in (1, 2, 3)] for plane in planes]
    assert np.array_equal(copier.sums[:, :3], expected)
