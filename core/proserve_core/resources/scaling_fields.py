"""`spec.scaling` and `spec.rollout` of an EnginePool: how many engines there are, and how they are replaced."""

from typing import Any

from proserve_core.pools import Rollout, Scaling
from proserve_core.resources.fields import Duration, Field, Integer, Object, Rule, Text
from proserve_core.resources.kinds import Reading

MOST_ENGINES = 1000

SCALING = Object(
    fields=(
        Field(
            name="min",
            type=Integer(minimum=0, maximum=MOST_ENGINES),
            default=1,
            description="Fewest engines. 0: the last one goes when no request came for `idleDelay`, and the first "
            "request after that waits for an engine as long as its class may queue.",
        ),
        Field(name="max", type=Integer(minimum=1, maximum=MOST_ENGINES), required=True, description="Most engines."),
        Field(
            name="maxLossPercent",
            type=Integer(minimum=1, maximum=50),
            default=2,
            description="Share of the gain that may be lost for want of capacity before there is one more engine.",
        ),
        Field(
            name="scaleUpDelay",
            type=Duration(minimum="1s", maximum="1h"),
            default="30s",
            description="How long too much gain must be lost before there is one more engine.",
        ),
        Field(
            name="scaleDownDelay",
            type=Duration(minimum="10s", maximum="24h"),
            default="5m",
            description="How long one engine less must have been enough before there is one less.",
        ),
        Field(
            name="idleDelay",
            type=Duration(minimum="10s", maximum="24h"),
            default="15m",
            description="With `min: 0`: how long no request may have come before the last engine goes.",
        ),
    ),
    rules=(Rule(expression="self.min <= self.max", message="min is above max; lower it or raise max", field=".min"),),
)

ROLLOUT = Object(
    fields=(
        Field(
            name="strategy",
            type=Text(choices=tuple(rollout.value for rollout in Rollout)),
            default=Rollout.SURGE.value,
            description="Surge: a new engine is ready before an old one goes, which needs a spare GPU. "
            "Replace: an old one goes first.",
        ),
    )
)


def check_scaling(reading: Reading) -> None:
    """What `Rule`s say to the API server."""
    if reading.has("spec.scaling") and reading.has("spec.replicas"):
        reading.error("spec.replicas", "contradicts spec.scaling", "remove one of the two")
    scaling = reading.spec.get("scaling", {})
    if "min" in scaling and "max" in scaling and scaling["min"] > scaling["max"]:
        reading.error(
            "spec.scaling.min",
            f"{scaling['min']} is above spec.scaling.max ({scaling['max']})",
            "lower it or raise max",
        )


def build_scaling(fields: dict[str, Any]) -> Scaling:
    """The domain object of `spec.scaling` without errors."""
    return Scaling(
        min_engines=fields["min"],
        max_engines=fields["max"],
        max_loss_percent=fields["maxLossPercent"],
        scale_up_delay_s=fields["scaleUpDelay"],
        scale_down_delay_s=fields["scaleDownDelay"],
        idle_delay_s=fields["idleDelay"],
    )
