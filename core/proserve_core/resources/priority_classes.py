"""The PriorityClass resource: what a request of a class is worth, by when, and what happens in overload."""

from proserve_core.objectives import (
    Headroom,
    HeadroomMode,
    Overload,
    OverloadAction,
    PriorityClass,
    ServiceObjectives,
)
from proserve_core.resources.fields import SUBDOMAIN_NAME, Duration, Field, Integer, Object, Rule, Text
from proserve_core.resources.kinds import API_VERSION, Column, Definition, Kind, Reading
from proserve_core.resources.status_fields import PRIORITY_CLASS_STATUS

SHARE_ANNOTATION = "proserve.dev/share"

_OBJECTIVES = Object(
    fields=(
        Field(
            name="timeToFirstToken",
            type=Duration(),
            required=True,
            description="The first token is due this long after the request arrived.",
        ),
        Field(
            name="timePerOutputToken",
            type=Duration(),
            required=True,
            description="Each further token is due this much later than the one before it.",
        ),
    )
)
_GAIN = Object(
    fields=(
        Field(
            name="firstToken",
            type=Integer(minimum=1, maximum=1_000_000),
            default=1,
            description="What a first token on time is worth, in units of the weight.",
        ),
        Field(
            name="outputToken",
            type=Integer(minimum=1, maximum=1_000_000),
            default=1,
            description="What each further token on time is worth, in units of the weight.",
        ),
    )
)
_HEADROOM = Object(
    fields=(
        Field(
            name="percent",
            type=Integer(minimum=0, maximum=100),
            required=True,
            description="Share of each pool's predicted engine time. All classes together: at most 100.",
        ),
        Field(
            name="mode",
            type=Text(choices=tuple(mode.value for mode in HeadroomMode)),
            default=HeadroomMode.ENTITLEMENT.value,
            description="Entitlement: requests weigh more while the class has used less than its share. "
            "Reserve: the share is kept free.",
        ),
    )
)
_OVERLOAD = Object(
    fields=(
        Field(
            name="action",
            type=Text(choices=tuple(action.value for action in OverloadAction)),
            default=OverloadAction.QUEUE.value,
            description="Queue: wait, even for too long to be of use. Shed: refuse once it can't be expected to be "
            "of use. Degrade: serve it as another class then.",
        ),
        Field(
            name="maxQueueTime",
            type=Duration(),
            description="Longest wait, then the request is refused or degraded. Without it: no limit. Not with Shed.",
        ),
        Field(
            name="className",
            type=SUBDOMAIN_NAME,
            description="PriorityClass to degrade to, not heavier than this one. Needed with Degrade, only with it.",
        ),
    ),
    rules=(
        Rule(
            expression="self.action != 'Degrade' || has(self.className)",
            message="className is missing with action Degrade; name the PriorityClass to degrade to",
        ),
        Rule(
            expression="self.action == 'Degrade' || !has(self.className)",
            message="className means nothing without action Degrade; remove it or set action: Degrade",
            field=".className",
        ),
        Rule(
            expression="self.action != 'Shed' || !has(self.maxQueueTime)",
            message="maxQueueTime means nothing with action Shed; remove it or set action: Queue",
            field=".maxQueueTime",
        ),
    ),
)


def _check(reading: Reading) -> None:
    overload = reading.spec.get("overload", {})
    action = overload.get("action")
    if action is None:
        return
    if action == OverloadAction.DEGRADE and not reading.has("spec.overload.className"):
        reading.error(
            "spec.overload.className", "is missing with action Degrade", "name the PriorityClass to degrade to"
        )
    if action != OverloadAction.DEGRADE and reading.has("spec.overload.className"):
        reading.error(
            "spec.overload.className", f"means nothing with action {action}", "remove it or set action: Degrade"
        )
    if action == OverloadAction.SHED and reading.has("spec.overload.maxQueueTime"):
        reading.error("spec.overload.maxQueueTime", "means nothing with action Shed", "remove it or set action: Queue")


PRIORITY_CLASS = Kind(
    name="PriorityClass",
    api_version=API_VERSION,
    namespaced=False,
    description="A class of requests: their weight against other classes and their latency objectives.",
    fields=(
        Field(
            name="spec",
            required=True,
            description="What the class promises and is worth.",
            type=Object(
                fields=(
                    Field(
                        name="weight",
                        type=Integer(minimum=1, maximum=1_000_000),
                        required=True,
                        description="What a token of this class is worth against one of weight 1.",
                    ),
                    Field(
                        name="objectives",
                        type=_OBJECTIVES,
                        required=True,
                        description="Latency targets. A token earns gain only when it comes before its deadline.",
                    ),
                    Field(name="gain", type=_GAIN, description="Worth of first and further tokens."),
                    Field(
                        name="headroom",
                        type=_HEADROOM,
                        description="Engine time that the class is entitled to at any load. Pools with another routing "
                        "policy than late-gain, where requests do not wait, take no account of it.",
                    ),
                    Field(
                        name="overload",
                        type=_OVERLOAD,
                        description="What happens to a request that can't be served now, in pools where requests wait "
                        "(routing policy `late-gain`).",
                    ),
                )
            ),
        ),
    ),
    annotations=(
        Field(
            name=SHARE_ANNOTATION,
            type=Text(
                pattern=r"0?\.\d*[1-9]\d*|1(\.0*)?",
                form="a decimal above 0 and at most 1, such as '0.5'",
                label="decimal string",
                max_length=20,
            ),
            description="Share of the requests that simulations draw from this class. "
            "Either all classes of a simulation have one, adding up to 1 but for rounding (0.99 to 1.01), or none.",
        ),
    ),
    definition=Definition(
        plural="priorityclasses",
        short_name="ppc",
        columns=(
            Column(name="Weight", path=".spec.weight", type="integer"),
            Column(name="TTFT", path=".spec.objectives.timeToFirstToken"),
            Column(name="TPOT", path=".spec.objectives.timePerOutputToken"),
            Column(name="Gain", path=".status.gain.ratio"),
            Column(name="SLO", path=".status.gain.sloAttainment"),
            Column(name="Accepted", path=".status.conditions[?(@.type=='Accepted')].status"),
            Column(name="Headroom", path=".spec.headroom.percent", type="integer", wide=True),
            Column(name="Overload", path=".spec.overload.action", wide=True),
            Column(name="Reason", path=".status.conditions[?(@.type=='Accepted')].message", wide=True),
            Column(name="Age", path=".metadata.creationTimestamp", type="date"),
        ),
        status=PRIORITY_CLASS_STATUS,
    ),
    check=_check,
)


def build_priority_class(reading: Reading) -> PriorityClass:
    """The domain object of a reading without errors."""
    spec = reading.spec
    objectives, gain = spec["objectives"], spec.get("gain", {})
    headroom, overload = spec.get("headroom"), spec.get("overload")
    return PriorityClass(
        name=reading.name or "",
        weight=spec["weight"],
        objectives=ServiceObjectives(ttft_s=objectives["timeToFirstToken"], tpot_s=objectives["timePerOutputToken"]),
        first_token_gain=gain.get("firstToken", 1),
        output_token_gain=gain.get("outputToken", 1),
        headroom=headroom and Headroom(percent=headroom["percent"], mode=HeadroomMode(headroom["mode"])),
        overload=Overload(
            action=OverloadAction(overload["action"]),
            max_queue_time_s=overload.get("maxQueueTime"),
            degrade_to=overload.get("className"),
        )
        if overload is not None
        else Overload(),
    )
