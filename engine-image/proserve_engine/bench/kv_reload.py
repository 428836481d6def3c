"""`python -m proserve_engine.bench.kv_reload`: whether a layer computes while the next one's KV blocks arrive.

A preempted request comes back in a step that also computes a prompt, on the CPU backend, where copies can be slowed
down at will: each layer's copy takes `delay` longer. Each delay is measured with both kinds of reload in turns. What a
pipeline cannot hide is the shorter one's share of one layer, so a model with as many layers as real ones have is the
one to look at; `generated://small` has 6.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from proserve_core.blocks import Reload
from proserve_engine.bench.kv_engine import KvEngine
from proserve_engine.bench.kv_figures import Reloaded, reload_table
from proserve_engine.kv.cpu_copier import CpuCopier

FACTORS = (0.0, 0.2, 0.4, 0.6, 1.0, 1.5)
"""Copies by what the step computes meanwhile."""
OUTPUT = 4


class _Step(msgspec.Struct, frozen=True):
    took_s: float
    copies_s: float
    waits_s: tuple[float, ...]


class _SlowLink:
    """Makes a copier's reloads slower, and notes how long layers wait."""

    def __init__(self, copier: CpuCopier, layers: int) -> None:
        self.delay_s = 0.0
        self.waits_s = [0.0] * layers
        self.copies_s = 0.0
        self._copy_in, self._wait = copier.copy_in, copier.wait_for_layer
        copier.copy_in = self.copy_in  # type: ignore[method-assign]
        copier.wait_for_layer = self.wait_for_layer  # type: ignore[method-assign]

    def copy_in(self, number: int, device: Any, host: Any) -> Any:
        began_s = time.perf_counter()
        intact = self._copy_in(number, device, host)
        time.sleep(self.delay_s)
        self.copies_s += time.perf_counter() - began_s
        return intact

    def wait_for_layer(self, number: int) -> None:
        began_s = time.perf_counter()
        self._wait(number)
        self.waits_s[number] += time.perf_counter() - began_s

    def begin(self) -> None:
        self.waits_s = [0.0] * len(self.waits_s)
        self.copies_s = 0.0


def measure(model: str, *, context: int, tokens: int, runs: int) -> list[Reloaded]:
    """One row for each of `FACTORS`.

    Raises:
        SystemExit: the engine is not on a CPU.
    """
    engine = KvEngine(model, longest=context + tokens, host_memory="1Gi")
    copier = engine.worker.copier
    if not isinstance(copier, CpuCopier):
        raise SystemExit("only copies of vLLM's CPU backend can be slowed down; on a GPU see `proserve bench kv`")
    layers = len(copier.host.layers)
    link = _SlowLink(copier, layers)

    def steps(delay_s: float) -> tuple[list[_Step], list[_Step]]:
        link.delay_s = delay_s
        pairs = [[_reload(engine, link, context, tokens, reload) for reload in Reload] for _ in range(runs)]
        return tuple([pair[kind] for pair in pairs] for kind in range(2))  # type: ignore[return-value]

    steps(0.0)  # Memory of this size is there when times count.
    rows: list[Reloaded] = []
    compute_s = 0.0
    for factor in FACTORS:
        pipelined, blocking = steps(factor * compute_s / layers)
        if not rows:
            compute_s = _median(pipelined)
        rows.append(
            Reloaded(
                layers=layers,
                blocks=context // engine.block_size,
                tokens=tokens,
                copies_s=statistics.median(step.copies_s for step in pipelined),
                compute_s=compute_s,
                pipelined_s=_median(pipelined),
                blocking_s=_median(blocking),
                waits_s=tuple(map(statistics.median, zip(*(step.waits_s for step in pipelined), strict=True))),
            )
        )
    return rows


def _median(steps: Sequence[_Step]) -> float:
    return statistics.median(step.took_s for step in steps)


def _reload(engine: KvEngine, link: _SlowLink, context: int, tokens: int, reload: Reload) -> _Step:
    """A request that lost its blocks comes back while another one's prompt is computed."""
    engine.submit("victim", [3 + number % 500 for number in range(context)], output=OUTPUT)
    engine.until("victim", 1)
    engine.director.held = set(engine.scheduler.requests)
    engine.submit("other", [7] * 8, output=OUTPUT)
    engine.until("other", 1)
    engine.finish_copies()
    engine.abort("other")
    engine.submit("prompt", [5 + number % 700 for number in range(tokens)], output=1)
    engine.director.held = set()
    link.begin()
    with _reloading(engine, reload):
        took_s = engine.step()
    assert link.copies_s > 0, "no block came back"
    step = _Step(took_s, link.copies_s, tuple(link.waits_s))
    engine.abort("victim")
    engine.outputs.pop("prompt")
    engine.finish_copies()
    return step


@contextmanager
def _reloading(engine: KvEngine, reload: Reload) -> Iterator[None]:
    connector = engine.scheduler.connector
    build = connector.build_connector_meta

    def with_kind(output: Any) -> Any:
        metadata = build(output)
        metadata.copies = msgspec.structs.replace(metadata.copies, reload=reload)
        return metadata

    connector.build_connector_meta = with_kind
    yield
    connector.build_connector_meta = build


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proserve_engine.bench.kv_reload", description=__doc__)
    parser.add_argument("--model", default="generated://deep")
    parser.add_argument("--context", type=int, default=480, help="tokens of the request that comes back")
    parser.add_argument("--tokens", type=int, default=256, help="tokens that the step computes")
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    rows = measure(options.model, context=options.context, tokens=options.tokens, runs=options.runs)
    sys.stdout.write(reload_table(rows) + "\n")


if __name__ == "__main__":
    main()
