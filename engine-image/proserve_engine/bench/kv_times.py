"""`python -m proserve_engine.bench.kv_times`: what copies of KV blocks take, and save, on this machine's engine.

One vLLM in this process, on whatever device its build is for, without prefix caching and with one step in flight.
Beside the request that is measured another one decodes, as in any engine that preempts.

- a request is preempted, its blocks are copied out, and it comes back: with its blocks (`resume`) or computing all of
  its context again in one step (`recompute`). Its output has to be that of an uninterrupted run; once its blocks come
  back empty, and the output has to differ, or equal ones would prove nothing;
- blocks that lie anywhere are copied each way by themselves, next to one piece of memory of the same size: what the
  link can do;
- steps with as many blocks copied ahead as the link moves meanwhile, each next to a step without.
"""

import argparse
import random
import statistics
import sys

import msgspec

from proserve_core.blocks import Reload
from proserve_engine.bench.kv_engine import KvEngine
from proserve_engine.bench.kv_figures import Copied, KvFigures, Resumed, Shuffled, Steps, table
from proserve_engine.bench.kv_link import raw_copy_s, wipe
from proserve_engine.kv.messages import CopyJob, StepCopies
from proserve_engine.vllm.seams import installed_version

OUTPUT = 24
"""Tokens of an interrupted request; it is preempted behind the second one."""
FILLER = "filler"
FILLER_TOKENS = 200
COPIES = 5
"""Of each size."""
DECODING = 8
HELD = 0.3
"""Share of the requests that are without blocks."""
LEAST_PAIRS, MOST_PAIRS = 10, 60


def measure(model: str, *, contexts: list[int], runs: int, host_memory: str) -> KvFigures:
    """Everything, on one engine."""
    engine = KvEngine(model, longest=max(contexts), host_memory=host_memory)
    vocabulary = engine.vocabulary
    draw = random.Random(7)
    prompts = {n: [draw.randrange(vocabulary // 3, vocabulary) for _ in range(n)] for n in contexts}
    for context in contexts:
        # Memory and kernels of this size are there when times count.
        _bring_back(engine, prompts[context], keep=False)
    resumed = tuple(_resumed(engine, prompts[context], runs) for context in contexts)
    shuffled = _shuffled(engine, draw)
    emptied = _bring_back(engine, prompts[contexts[0]], keep=True, empty=True).output
    differs = emptied != _uninterrupted(engine, prompts[contexts[0]])
    engine.abort(FILLER)
    copied = tuple(_copied(engine, size) for size in _sizes(engine, max(contexts)))
    return KvFigures(
        device=str(engine.device),
        model=model,
        vllm=installed_version(),
        block_size=engine.block_size,
        block_bytes=engine.block_bytes,
        resumed=resumed,
        copied=copied,
        steps=_steps(engine, prompts[contexts[len(contexts) // 2]], to_host=copied[-1].to_host),
        shuffled=shuffled,
        control_differs=differs,
    )


def _uninterrupted(engine: KvEngine, prompt: list[int]) -> list[int]:
    _fill(engine)
    engine.submit("whole", prompt, output=OUTPUT)
    engine.until("whole", OUTPUT)
    return engine.outputs.pop("whole")


class _Back(msgspec.Struct, frozen=True, kw_only=True):
    """One request brought back."""

    output: list[int]
    took_s: float
    out_s: float
    back_s: float
    waited_s: float
    blocks: int


def _bring_back(engine: KvEngine, prompt: list[int], *, keep: bool, empty: bool = False) -> _Back:
    """Preempt a request and have it come back.

    Args:
        keep: its blocks go to the host.
        empty: what is there is wiped out, and the sums of it.
    """
    _fill(engine)
    engine.submit("victim", prompt, output=OUTPUT)
    engine.until("victim", 2)
    out_s = engine.copy_s("offload")
    if not keep:
        engine.kv.discard()
    engine.director.held.update(name for name in engine.scheduler.requests if name.startswith("victim"))
    engine.step()
    if not keep:
        engine.kv.keep()
    engine.finish_copies()
    out_s = engine.copy_s("offload") - out_s
    if empty:
        wipe(engine.worker.copier)
    back_s, waited_s = engine.copy_s("restore"), engine.counted("copy_exposed_seconds_total", direction="restore")
    blocks = engine.counted("copied_blocks_total", direction="restore")
    engine.director.held.clear()
    took_s = engine.until("victim", len(engine.outputs["victim"]) + 1)
    engine.finish_copies()
    waited_s = engine.counted("copy_exposed_seconds_total", direction="restore") - waited_s
    back_s = engine.copy_s("restore") - back_s
    blocks = engine.counted("copied_blocks_total", direction="restore") - blocks
    engine.until("victim", OUTPUT)
    return _Back(
        output=engine.outputs.pop("victim"),
        took_s=took_s,
        out_s=out_s,
        back_s=back_s,
        waited_s=waited_s,
        blocks=int(blocks),
    )


def _resumed(engine: KvEngine, prompt: list[int], runs: int) -> Resumed:
    expected = _uninterrupted(engine, prompt)
    # In turns, so that what else this machine does meets both.
    pairs = [(_bring_back(engine, prompt, keep=True), _bring_back(engine, prompt, keep=False)) for _ in range(runs)]
    kept, lost = zip(*pairs, strict=True)

    def median(rows: tuple[_Back, ...], field: str) -> float:
        return float(statistics.median(getattr(row, field) for row in rows))

    return Resumed(
        context=len(prompt),
        runs=runs,
        resume_s=median(kept, "took_s"),
        recompute_s=median(lost, "took_s"),
        copied_out_s=median(kept, "out_s"),
        copied_back_s=median(kept, "back_s"),
        waited_s=median(kept, "waited_s"),
        restored_blocks=min(row.blocks for row in kept),
        wrong_resumed=sum(row.output != expected for row in kept),
        wrong_recomputed=sum(row.output != expected for row in lost),
    )


def _shuffled(engine: KvEngine, draw: random.Random) -> Shuffled:
    """Hold some of the requests in each step, others in the next, and copy ahead in some steps."""
    engine.abort(FILLER)
    prompts = {
        f"shuffled-{n}": [draw.randrange(engine.vocabulary) for _ in range(90 + 37 * n)] for n in range(DECODING)
    }
    expected = {name: _uninterrupted(engine, prompt) for name, prompt in prompts.items()}
    engine.abort(FILLER)
    restores = engine.counted("restores_total")
    for name, prompt in prompts.items():
        engine.submit(name, prompt, output=OUTPUT)
    while running := list(engine.scheduler.requests):
        # One at least runs, and ends some day.
        engine.director.held = {name for name in running[1:] if draw.random() < HELD}
        with engine.copying_ahead(draw.choice((0, 0, 3))):
            engine.step()
    engine.director.held = set()
    engine.finish_copies()
    return Shuffled(
        requests=len(prompts),
        restores=int(engine.counted("restores_total") - restores),
        wrong=sum(engine.outputs.pop(name) != expected[name] for name in prompts),
    )


def _fill(engine: KvEngine) -> None:
    """Have somebody decode beside the request that is measured, in a step of its own before it."""
    if FILLER in engine.outputs:
        engine.abort(FILLER)
    engine.submit(FILLER, [3] * 8, output=FILLER_TOKENS)
    engine.until(FILLER, 1)


def _sizes(engine: KvEngine, context: int) -> list[int]:
    """Numbers of blocks to copy."""
    most = min(context // engine.block_size, engine.kv.copies.ledger.host_blocks)
    return sorted({1, min(8, most), min(64, most), most})


def _copied(engine: KvEngine, blocks: int) -> Copied:
    device_blocks = engine.scheduler.kv_cache_config.num_blocks
    draw = random.Random(blocks)
    to_host: list[float] = []
    to_device: list[float] = []
    for _ in range(COPIES):
        device = tuple(draw.sample(range(1, device_blocks), blocks))
        job = CopyJob(number=-1, device=device, host=tuple(range(blocks)))
        to_host.append(_copy_s(engine, StepCopies(flushes=(job,), reload=Reload.BLOCKING)))
        to_device.append(_copy_s(engine, StepCopies(restores=(job,), reload=Reload.BLOCKING)))
    size = blocks * engine.block_bytes
    raw_s = {direction: raw_copy_s(engine.device, size, to_host=direction, times=COPIES) for direction in (True, False)}
    return Copied(
        blocks=blocks,
        size=size,
        to_host=size / statistics.median(to_host),
        to_host_raw=size / raw_s[True],
        to_device=size / statistics.median(to_device),
        to_device_raw=size / raw_s[False],
    )


def _copy_s(engine: KvEngine, copies: StepCopies) -> float:
    """How long the copies of an idle engine take."""
    worker = engine.worker
    worker.before_step(copies)
    worker.start_restores(copies)
    worker.after_step()
    report = worker.report()
    assert report is not None, "copies that the step waits for are reported with it"
    result = report().results[-1]
    assert result.intact, "a copy failed, see the log"
    return float(result.copy_s)


def _steps(engine: KvEngine, prompt: list[int], *, to_host: float) -> Steps:
    """Steps without and with copies ahead in turns, as many blocks as the link moves in a step without."""
    names = [f"decoding-{number}" for number in range(DECODING)]
    for name in names:
        engine.submit(name, prompt, output=4 * MOST_PAIRS)
    for name in names:
        engine.until(name, 10)
    plain = [engine.step() for _ in range(10)]
    each = max(1, int(statistics.median(plain) * to_host / engine.block_bytes))
    uncopied = DECODING * (len(prompt) // engine.block_size)
    each = min(each, uncopied // LEAST_PAIRS)
    pairs: list[tuple[float, float]] = []
    for _ in range(min(MOST_PAIRS, uncopied // each)):
        without_s = engine.step()
        with engine.copying_ahead(each):
            pairs.append((without_s, engine.step()))
        engine.finish_copies()
    for name in names:
        engine.abort(name)
    engine.finish_copies()
    return Steps(
        pairs=len(pairs),
        requests=DECODING,
        copied_blocks=each,
        plain_s=statistics.median(without for without, _ in pairs),
        copying_s=statistics.median(behind for _, behind in pairs),
        ratio=statistics.median(behind / without for without, behind in pairs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proserve_engine.bench.kv_times", description=__doc__)
    parser.add_argument("--model", default="generated://small")
    parser.add_argument("--context", type=int, action="append", help="tokens of an interrupted request")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--host-memory", default="1Gi")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    contexts = sorted(set(options.context or (256, 512, 1024, 2048, 4096)))
    figures = measure(options.model, contexts=contexts, runs=options.runs, host_memory=options.host_memory)
    written = msgspec.json.format(msgspec.json.encode(figures)).decode() if options.json else table(figures)
    sys.stdout.write(written + "\n")
    raise SystemExit(1 if figures.faults else 0)


if __name__ == "__main__":
    main()
