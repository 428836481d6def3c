"""Random specifications, and small changes to one: the moves of the search."""

import math
import random
from collections.abc import Callable

from msgspec.structs import replace

from proserve_lab.search.spec import Class, Lengths, WorkloadSpec

CALIBRATIONS = ("h100-llama-3.1-8b", "a100-llama-3.1-8b")
MOST_OUTPUT_TOKENS = 15_000
"""Of a workload, on average: what keeps one simulation below a second or so."""
_AMPLE_KV_TOKENS = 460_000
_WEIGHTS = (1, 2, 3, 5, 10)
_TPOTS_S = (0.02, 0.03, 0.04, 0.05, 0.1, 0.2)
_SLOTS = (16, 32, 64, 128)
_TYPICAL = (
    Class(share=0.5, weight=2, ttft_s=0.5, tpot_s=0.04),
    Class(share=0.5, weight=1, ttft_s=30, tpot_s=0.2),
)
"""A chat beside a batch job: the mix that serving systems are sold with."""


def random_spec(draw: random.Random) -> WorkloadSpec:
    """Anywhere in the space."""
    kinds = tuple(_random_kind(draw) for _ in range(draw.choice((1, 1, 2, 3))))
    classes = tuple(_random_class(draw) for _ in range(draw.choice((1, 2, 2, 3, 4))))
    if draw.random() < 0.2:
        classes = _TYPICAL
    elif draw.random() < 0.5:
        # One set of objectives for all: only the weights differ.
        classes = tuple(replace(item, ttft_s=classes[0].ttft_s, tpot_s=classes[0].tpot_s) for item in classes)
    return _bounded(
        WorkloadSpec(
            calibration=draw.choice(CALIBRATIONS),
            requests=draw.randint(100, 300),
            load=_rounded(math.exp(draw.uniform(math.log(0.5), math.log(3)))),
            cycles=draw.randint(1, 8),
            on_share=draw.choice((1, 1, 1, 0.5, 0.2, 0.05, 0)),
            gap_variation=draw.choice((0.3, 1, 1, 1, 2, 4)),
            kinds=kinds,
            classes=classes,
            paired=draw.random() < 0.5,
            first_token_gain=draw.choice((1, 1, 1, 10)),
            kv_tokens=_log_uniform_count(draw, 15_000, 150_000) if draw.random() < 0.25 else _AMPLE_KV_TOKENS,
            max_sequences=draw.choice(_SLOTS) if draw.random() < 0.25 else 256,
        )
    )


def changed(spec: WorkloadSpec, draw: random.Random) -> WorkloadSpec:
    """One to three of its numbers moved."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        spec = draw.choice(_MOVES)(spec, draw)
    return _bounded(spec)


def _other_load(spec: WorkloadSpec, draw: random.Random) -> WorkloadSpec:
    return replace(spec, load=_rounded(min(4.0, max(0.4, _scaled(spec.load, draw, 0.25)))))


def _other_arrivals(spec: WorkloadSpec, draw: random.Random) -> WorkloadSpec:
    return replace(
        spec,
        cycles=max(1, min(10, spec.cycles + draw.choice((-1, 0, 1)))),
        on_share=_rounded(min(1.0, max(0.0, spec.on_share + draw.uniform(-0.3, 0.3)))),
        gap_variation=_rounded(min(5.0, max(0.2, _scaled(spec.gap_variation, draw, 0.4)))),
    )


def _other_size(spec: WorkloadSpec, draw: random.Random) -> WorkloadSpec:
    return replace(spec, requests=max(100, min(300, round(_scaled(spec.requests, draw, 0.3)))))


def _other_kind(spec: WorkloadSpec, draw: random.Random) -> WorkloadSpec:
    at = draw.randrange(len(spec.kinds))
    kind = spec.kinds[at]
    kind = replace(
        kind,
        share=_rounded(_scaled(kind.share, draw, 0.4)),
        prompt_median=_rounded(min(8000.0, max(20.0, _scaled(kind.prompt_median, draw, 0.5)))),
        prompt_sigma=_rounded(min(1.5, max(0.0, kind.prompt_sigma + draw.gauss(0, 0.2)))),
        output_median=_rounded(min(600.0, max(2.0, _scaled(kind.output_median, draw, 0.5)))),
        output_sigma=_rounded(min(1.5, max(0.0, kind.output_sigma + draw.gauss(0, 0.2)))),
        correlation=_rounded(min(0.95, max(-0.95, kind.correlation + draw.gauss(0, 0.3)))),
    )
    return replace(spec, kinds=(*spec.kinds[:at], kind, *spec.kinds[at + 1 :]))


def _other_class(spec: WorkloadSpec, draw: random.Random) -> WorkloadSpec:
    at = draw.randrange(len(spec.classes))
    item = spec.classes[at]
    item = replace(
        item,
        share=_rounded(_scaled(item.share, draw, 0.5)),
        weight=draw.choice((item.weight, *_WEIGHTS)),
        ttft_s=_rounded(min(30.0, max(0.2, _scaled(item.ttft_s, draw, 0.5)))),
        tpot_s=draw.choice((item.tpot_s, item.tpot_s, *_TPOTS_S)),
    )
    return replace(spec, classes=(*spec.classes[:at], item, *spec.classes[at + 1 :]))


def _more_or_fewer(spec: WorkloadSpec, draw: random.Random) -> WorkloadSpec:
    kinds, classes = spec.kinds, spec.classes
    match draw.randrange(4):
        case 0 if len(kinds) < 3:
            kinds = (*kinds, _random_kind(draw))
        case 1 if len(kinds) > 1:
            kinds = kinds[:-1]
        case 2 if len(classes) < 4:
            classes = (*classes, _random_class(draw))
        case 3 if len(classes) > 1:
            classes = classes[:-1]
        case _:
            return replace(spec, paired=not spec.paired)
    return replace(spec, kinds=kinds, classes=classes)


def _other_engine(spec: WorkloadSpec, draw: random.Random) -> WorkloadSpec:
    match draw.randrange(4):
        case 0:
            return replace(spec, calibration=draw.choice(CALIBRATIONS))
        case 1:
            kv_tokens = max(10_000, min(_AMPLE_KV_TOKENS, round(_scaled(spec.kv_tokens, draw, 0.7))))
            return replace(spec, kv_tokens=kv_tokens)
        case 2:
            return replace(spec, max_sequences=draw.choice((*_SLOTS, 256)))
        case _:
            return replace(spec, first_token_gain=draw.choice((1, 3, 10)))


_MOVES: tuple[Callable[[WorkloadSpec, random.Random], WorkloadSpec], ...] = (
    _other_load,
    _other_arrivals,
    _other_size,
    _other_kind,
    _other_kind,
    _other_class,
    _other_class,
    _more_or_fewer,
    _other_engine,
)


def _random_kind(draw: random.Random) -> Lengths:
    return Lengths(
        share=_rounded(draw.uniform(0.2, 1)),
        prompt_median=_log_uniform_count(draw, 30, 8000),
        prompt_sigma=_rounded(draw.uniform(0, 1.2)),
        output_median=_log_uniform_count(draw, 3, 400),
        output_sigma=_rounded(draw.uniform(0, 1.2)),
        correlation=draw.choice((0, 0, 0.8, -0.8)),
    )


def _random_class(draw: random.Random) -> Class:
    return Class(
        share=_rounded(draw.uniform(0.1, 1)),
        weight=draw.choice(_WEIGHTS),
        ttft_s=_rounded(math.exp(draw.uniform(math.log(0.2), math.log(30)))),
        tpot_s=draw.choice(_TPOTS_S),
    )


def _bounded(spec: WorkloadSpec) -> WorkloadSpec:
    """With fewer requests if it would take long to simulate."""
    total = sum(kind.share for kind in spec.kinds)
    mean = sum(kind.share * kind.output_median * math.exp(kind.output_sigma**2 / 2) for kind in spec.kinds) / total
    return replace(spec, requests=max(40, min(spec.requests, int(MOST_OUTPUT_TOKENS / mean))))


def _scaled(value: float, draw: random.Random, sigma: float) -> float:
    return value * math.exp(draw.gauss(0, sigma))


def _log_uniform_count(draw: random.Random, low: float, high: float) -> int:
    return round(math.exp(draw.uniform(math.log(low), math.log(high))))


def _rounded(value: float) -> float:
    """Three digits: a specification is read by people."""
    return float(f"{value:.3g}")
