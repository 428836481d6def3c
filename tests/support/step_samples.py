"""Synthetic engine steps with known truth, for tests of latency fits."""

import random
from collections.abc import Iterator

from proserve_core.latency import LatencyModel, StepWork


def decode_step(rng: random.Random) -> StepWork:
    batch = rng.randint(1, 200)
    return StepWork(new_tokens=batch, decode_context=batch * rng.randint(50, 4000), sequences=batch)


def prefill_step(rng: random.Random) -> StepWork:
    chunk, cached = int(10 ** rng.uniform(1, 3.9)), rng.choice([0, 0, rng.randint(0, 8000)])
    return StepWork(new_tokens=chunk, attention=chunk**2 + 2 * chunk * cached, sequences=1)


def mixed_step(rng: random.Random) -> StepWork:
    decode, prefill = decode_step(rng), prefill_step(rng)
    return StepWork(
        new_tokens=decode.new_tokens + prefill.new_tokens,
        attention=prefill.attention,
        decode_context=decode.decode_context,
        sequences=decode.sequences + 1,
    )


def steps(count: int, *, seed: int = 1, prefill_share: float = 0.3) -> Iterator[StepWork]:
    """Decode-only steps, and `prefill_share` of steps with prefills, half of those mixed."""
    rng = random.Random(seed)
    for _ in range(count):
        kind = rng.random()
        if kind >= prefill_share:
            yield decode_step(rng)
        elif kind >= prefill_share / 2:
            yield mixed_step(rng)
        else:
            yield prefill_step(rng)


def measure(truth: LatencyModel, work: StepWork, rng: random.Random, noise: float) -> float:
    """True duration with log-normal noise."""
    return truth.step_s(work) * rng.lognormvariate(0.0, noise)
