"""A small workload as a few numbers: what the search varies, what a regression test keeps.

`build` turns a specification and a seed into requests and limits. Another seed draws other arrivals, lengths and
classes from the same distributions, which tells structure from luck.
"""

import math
import random
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from proserve_core.batching import EngineLimits
from proserve_core.latency import LatencyModel
from proserve_core.latency.calibrations import load_calibration
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_lab.simulation.workload import SimulatedRequest

LONGEST_PROMPT = 16_000
LONGEST_OUTPUT = 1500
_LEAST_AVAILABLE = 0.2
"""Of the engine's time, beside the steps' constants."""

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class Lengths(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lognormal prompt and output lengths of one kind of request."""

    share: Positive
    prompt_median: Positive
    prompt_sigma: Annotated[float, Meta(ge=0)]
    output_median: Positive
    output_sigma: Annotated[float, Meta(ge=0)]
    correlation: Annotated[float, Meta(ge=-1, le=1)]
    """Of the logarithms: below 0, long prompts have short outputs."""


class Class(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One priority class."""

    share: Positive
    weight: Positive
    ttft_s: Positive
    tpot_s: Positive


class WorkloadSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A distribution of small workloads and the engine that they meet."""

    calibration: str
    requests: Count
    load: Positive
    """Work that falls due while requests arrive, over the engine's time for it: 1 is saturation."""
    cycles: Count
    """Bursts, evenly spaced."""
    on_share: Annotated[float, Meta(ge=0, le=1)]
    """Part of each cycle in which requests arrive: 1 is a steady stream, 0 puts each burst on one instant."""
    gap_variation: Positive
    """Coefficient of variation of the gaps between arrivals: 1 is Poisson."""
    kinds: Annotated[tuple[Lengths, ...], Meta(min_length=1)]
    classes: Annotated[tuple[Class, ...], Meta(min_length=1)]
    paired: bool
    """Class i sends requests of kind i only (counted round); else both are drawn on their own."""
    first_token_gain: Positive
    """w_p; w_d is 1."""
    kv_tokens: Count
    """KV capacity; never less than the longest request needs."""
    max_sequences: Count


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulation needs."""

    requests: list[SimulatedRequest]
    limits: EngineLimits
    latency: LatencyModel


def build(spec: WorkloadSpec, seed: int) -> Workload:
    """The workload of `spec` that `seed` draws.

    Raises:
        ValueError: the calibration does not exist.
    """
    engine = load_calibration(spec.calibration)
    draw = random.Random(seed)
    terms = [
        ServiceTerms(
            priority_class=f"class-{number}",
            weight=item.weight,
            first_token_gain=spec.first_token_gain,
            output_token_gain=1,
            objectives=ServiceObjectives(ttft_s=item.ttft_s, tpot_s=item.tpot_s),
        )
        for number, item in enumerate(spec.classes)
    ]
    drawn: list[tuple[ServiceTerms, int, int]] = []
    for _ in range(spec.requests):
        number = draw.choices(range(len(terms)), [item.share for item in spec.classes])[0]
        if spec.paired:
            kind = spec.kinds[number % len(spec.kinds)]
        else:
            kind = draw.choices(spec.kinds, [item.share for item in spec.kinds])[0]
        drawn.append((terms[number], *_lengths(kind, draw)))
    places = _arrivals(spec, draw)
    span_s = _span_s(spec, places, drawn, engine.latency)
    width = len(str(spec.requests - 1))
    blocks = max(
        -(-spec.kv_tokens // engine.block_size),
        *(-(-(prompt + output) // engine.block_size) for _, prompt, output in drawn),
    )
    return Workload(
        requests=[
            SimulatedRequest(
                id=f"r{number:0{width}d}",
                terms=term,
                arrival_s=place * span_s,
                prompt_tokens=prompt,
                output_tokens=output,
            )
            for number, (place, (term, prompt, output)) in enumerate(zip(places, drawn, strict=True))
        ],
        limits=engine.limits(blocks=blocks, max_sequences=spec.max_sequences),
        latency=engine.latency,
    )


def _lengths(kind: Lengths, draw: random.Random) -> tuple[int, int]:
    first, other = draw.gauss(0, 1), draw.gauss(0, 1)
    second = kind.correlation * first + math.sqrt(1 - kind.correlation**2) * other
    prompt = kind.prompt_median * math.exp(kind.prompt_sigma * first)
    output = kind.output_median * math.exp(kind.output_sigma * second)
    return min(LONGEST_PROMPT, max(1, round(prompt))), min(LONGEST_OUTPUT, max(1, round(output)))


def _arrivals(spec: WorkloadSpec, draw: random.Random) -> list[float]:
    """Ascending places within the span, from 0 to 1."""
    shape = 1 / spec.gap_variation**2
    places, at = [], 0.0
    for _ in range(spec.requests):
        places.append(at)
        at += draw.gammavariate(shape, 1 / shape)
    length = at or 1.0
    bursts = [math.modf(place / length * spec.cycles) for place in places]
    return [(burst + within * spec.on_share) / spec.cycles for within, burst in bursts]


def _span_s(
    spec: WorkloadSpec, places: Sequence[float], drawn: Sequence[tuple[ServiceTerms, int, int]], latency: LatencyModel
) -> float:
    """Seconds from the first arrival to the end of the last burst: the longest span in which `load` is reached."""
    tpot_s = min(item.tpot_s for item in spec.classes)
    available = max(_LEAST_AVAILABLE, 1 - latency.constant_s / tpot_s)
    work_s = [
        (latency.prefill_s(prompt), latency.decode_s(prompt + output / 2), output - 1) for _, prompt, output in drawn
    ]
    prompts_s = sum(prefill_s for prefill_s, _, _ in work_s)
    span_s = sum(prefill_s + tokens * token_s for prefill_s, token_s, tokens in work_s) / (spec.load * available)
    while span_s * spec.load * available > prompts_s:
        due_s = prompts_s
        for place, (term, _, _), (_, token_s, tokens) in zip(places, drawn, work_s, strict=True):
            left_s = span_s * (1 - place) - term.objectives.ttft_s
            due_s += token_s * min(tokens, max(0.0, left_s / term.objectives.tpot_s))
        if due_s >= span_s * spec.load * available:
            break
        span_s *= 0.95
    return span_s
