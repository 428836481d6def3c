"""The step-latency model as a linear one: with the knee fixed, time is linear in five coefficients.

`host + max(floor, g0 + g1*m) = (host + g0) + g1*max(m, knee)`, so non-negative coefficients of
`[1, max(m, knee), attention, decode context, sequences]` are exactly the models with non-negative constants. Host work
and g0 can't be told apart by timing whole steps: the split is given from outside.
"""

import math

from proserve_core.latency.model import LatencyModel, StepWork

COEFFICIENTS = 5


def features(work: StepWork, knee_tokens: float) -> tuple[float, float, float, float, float]:
    """What the coefficients multiply."""
    tokens = work.new_tokens
    return (
        1.0,
        tokens if tokens > knee_tokens else knee_tokens,
        work.attention,
        work.decode_context,
        work.sequences,
    )


def linear_knee(model: LatencyModel) -> float:
    """Knee of the model in the linear form; 0 where its linear layers never leave the floor."""
    return model.knee_tokens if math.isfinite(model.knee_tokens) else 0.0


def coefficients(model: LatencyModel) -> tuple[float, float, float, float, float]:
    """Coefficients of `features(work, linear_knee(model))`."""
    base_s = model.linear_base_s
    if linear_knee(model) == 0.0:
        base_s = max(base_s, model.floor_s)
    return (model.host_s + base_s, model.linear_token_s, model.attention_s, model.context_s, model.sequence_s)


def model_of(values: tuple[float, ...], *, knee_tokens: float, host_share: float) -> LatencyModel:
    """The model with these coefficients; `host_share` of the constant is host work, the rest g0."""
    constant_s, token_s, attention_s, context_s, sequence_s = values
    base_s = constant_s * (1 - host_share)
    return LatencyModel(
        host_s=constant_s * host_share,
        floor_s=base_s + token_s * knee_tokens,
        linear_base_s=base_s,
        linear_token_s=token_s,
        attention_s=attention_s,
        context_s=context_s,
        sequence_s=sequence_s,
    )
