"""The status of the custom resources: what the operator writes and `kubectl get` shows."""

from proserve_core.resources.conditions import CONDITIONS
from proserve_core.resources.fields import Field, Integer, ListOf, Object, Text

_TIME = Text(
    pattern=r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})",
    form="a time such as '2030-01-31T10:00:00Z'",
    label="time",
    max_length=40,
)
_PERCENT = Text(pattern=r"[0-9]{1,3}(\.[0-9])?%", form="a share such as '98.7%'", label="share", max_length=6)
_FREE_TEXT = Text(pattern=r"(?s:.*)", form="a text", label="text", max_length=1024)
_COUNT = Integer(minimum=0)
_NAME = Text(max_length=317, label="name", form="a name")
_GENERATION = Field(
    name="observedGeneration",
    type=Integer(minimum=0, maximum=2**53),
    description="Generation of the spec that this status is about.",
)


def _conditions(kind: str) -> Field:
    names = " and ".join(condition.name for condition in CONDITIONS[kind])
    return Field(
        name="conditions",
        description=f"{names}: docs/operator.md lists all reasons.",
        type=ListOf(
            keys=("type",),
            max_items=8,
            items=Object(
                fields=(
                    Field(
                        name="type",
                        type=Text(choices=tuple(condition.name for condition in CONDITIONS[kind])),
                        required=True,
                        description="Which condition.",
                    ),
                    Field(
                        name="status",
                        type=Text(choices=("True", "False", "Unknown")),
                        required=True,
                        description="True is good.",
                    ),
                    _GENERATION,
                    Field(
                        name="lastTransitionTime", type=_TIME, required=True, description="When status last changed."
                    ),
                    Field(
                        name="reason",
                        type=Text(
                            choices=tuple(
                                dict.fromkeys(
                                    reason.value for condition in CONDITIONS[kind] for reason in condition.reasons
                                )
                            )
                        ),
                        required=True,
                        description="Why, in one word.",
                    ),
                    Field(name="message", type=_FREE_TEXT, required=True, description="Why, for people."),
                )
            ),
        ),
    )


_GAIN_FIELDS = (
    Field(
        name="window",
        type=Text(pattern=r"[0-9]+[smh]", form="a time such as '10m'", label="duration", max_length=10),
        description="Time that the figures are about, up to the last change of this status.",
    ),
    Field(name="requests", type=_COUNT, description="Requests that ended in it."),
    Field(name="ratio", type=_PERCENT, description="Gain earned, of the gain that could be earned."),
    Field(name="sloAttainment", type=_PERCENT, description="Requests that met both of their latency targets."),
    Field(
        name="lost",
        description="Gain that was not earned, by cause (docs/metrics.md).",
        type=ListOf(
            keys=("cause",),
            max_items=16,
            items=Object(
                fields=(
                    Field(
                        name="cause",
                        type=Text(max_length=63, form="a cause", label="name"),
                        required=True,
                        description="Why it was not earned.",
                    ),
                    Field(name="share", type=_PERCENT, required=True, description="Of the gain that could be earned."),
                )
            ),
        ),
    ),
)
_GAIN = Field(name="gain", type=Object(fields=_GAIN_FIELDS), description="Gain of late, over all gateways.")

PRIORITY_CLASS_STATUS = (_GENERATION, _conditions("PriorityClass"), _GAIN)
TENANT_STATUS = (_GENERATION, _conditions("Tenant"), _GAIN)
ENGINE_POOL_STATUS = (
    _GENERATION,
    _conditions("EnginePool"),
    Field(name="replicas", type=_COUNT, description="Engines that exist."),
    Field(name="readyReplicas", type=_COUNT, description="Engines that can serve."),
    Field(name="desiredReplicas", type=_COUNT, description="Engines that there should be."),
    Field(
        name="engines",
        type=Text(max_length=24, form="a fraction such as '2/3'", label="text"),
        description="Ready and desired engines, to be read at a glance.",
    ),
    Field(
        name="selector",
        type=Text(max_length=512, form="a label selector", label="text"),
        description="Label selector of the pods of engines, for autoscalers.",
    ),
    _GAIN,
    Field(
        name="classes",
        description="The same for each class that this pool served.",
        type=ListOf(
            keys=("className",),
            items=Object(
                fields=(
                    Field(name="className", type=_NAME, required=True, description="PriorityClass."),
                    *_GAIN_FIELDS,
                )
            ),
        ),
    ),
)
