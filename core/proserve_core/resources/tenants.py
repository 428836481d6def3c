"""The Tenant resource: who may send requests, with which keys, as which class."""

from proserve_core.objectives import SecretKeyRef, Tenant, TenantLimits
from proserve_core.resources.fields import (
    SUBDOMAIN_NAME,
    Boolean,
    Field,
    Integer,
    ListOf,
    Object,
    Rule,
    Text,
    secret_key_ref,
)
from proserve_core.resources.kinds import API_VERSION, Column, Definition, Kind, Reading
from proserve_core.resources.status_fields import TENANT_STATUS

_LIMITS = Object(
    fields=(
        Field(
            name="requestsPerMinute",
            type=Integer(minimum=1),
            description="Most requests per minute, over any 60 seconds.",
        ),
        Field(
            name="tokensPerMinute",
            type=Integer(minimum=1),
            description="Most prompt and output tokens per minute. The estimate is reserved when a request is "
            "admitted and settled with the real usage when it ends.",
        ),
        Field(
            name="maxInFlight",
            type=Integer(minimum=1),
            description="Most requests that are being served or waiting at the same time.",
        ),
    )
)


def _check(reading: Reading) -> None:
    if not reading.has("spec.apiKeys") and reading.spec.get("anonymous") is False:
        reading.error(
            "spec.apiKeys",
            "is missing: nobody could send a request as this tenant",
            "add a key (apiKeys: [{secretKeyRef: {name: ..., key: ...}}]) or set anonymous: true",
        )


TENANT = Kind(
    name="Tenant",
    api_version=API_VERSION,
    namespaced=True,
    description="Somebody who sends requests. The API key alone tells the tenant, the tenant tells the class.",
    fields=(
        Field(
            name="spec",
            required=True,
            description="How the tenant is recognised and what it may do.",
            type=Object(
                fields=(
                    Field(
                        name="priorityClassName",
                        type=SUBDOMAIN_NAME,
                        required=True,
                        description="PriorityClass (proserve.dev) of the tenant's requests.",
                    ),
                    Field(
                        name="maxPriorityClassName",
                        type=SUBDOMAIN_NAME,
                        description="Heaviest PriorityClass that a request may ask for. "
                        "Without it: the tenant's own class.",
                    ),
                    Field(
                        name="anonymous",
                        type=Boolean(),
                        default=False,
                        description="Whether requests without an API key belong to this tenant. "
                        "At most one tenant may say so; if none does, such requests are refused.",
                    ),
                    Field(
                        name="apiKeys",
                        type=ListOf(
                            items=Object(fields=(secret_key_ref("Secret entry in the tenant's namespace."),)),
                            min_items=1,
                            max_items=16,
                            unique=True,
                        ),
                        description="API keys of the tenant; clients send one as bearer token. "
                        "Several at once let a key be replaced without interruption.",
                    ),
                    Field(name="limits", type=_LIMITS, description="Quotas. What is not given is not limited."),
                    Field(
                        name="models",
                        type=ListOf(
                            items=Text(form="a model name", max_length=253),
                            min_items=1,
                            unique=True,
                        ),
                        description="Names of the models that the tenant may use. Without it: all.",
                    ),
                ),
                rules=(
                    Rule(
                        expression="self.anonymous || has(self.apiKeys)",
                        message="nobody could send a request as this tenant; add a key "
                        "(apiKeys: [{secretKeyRef: {name: ..., key: ...}}]) or set anonymous: true",
                    ),
                ),
            ),
        ),
    ),
    definition=Definition(
        plural="tenants",
        short_name="ptn",
        columns=(
            Column(name="Class", path=".spec.priorityClassName"),
            Column(name="Maximum", path=".spec.maxPriorityClassName"),
            Column(name="Gain", path=".status.gain.ratio"),
            Column(name="SLO", path=".status.gain.sloAttainment"),
            Column(name="Accepted", path=".status.conditions[?(@.type=='Accepted')].status"),
            Column(name="Keys", path=".status.conditions[?(@.type=='KeysResolved')].status"),
            Column(name="Reason", path=".status.conditions[?(@.type=='Accepted')].message", wide=True),
            Column(name="Age", path=".metadata.creationTimestamp", type="date"),
        ),
        status=TENANT_STATUS,
    ),
    check=_check,
)


def build_tenant(reading: Reading) -> Tenant:
    """The domain object of a reading without errors."""
    spec = reading.spec
    limits = spec.get("limits", {})
    return Tenant(
        name=reading.name or "",
        namespace=reading.namespace,
        priority_class=spec["priorityClassName"],
        max_priority_class=spec.get("maxPriorityClassName"),
        anonymous=spec["anonymous"],
        api_keys=tuple(SecretKeyRef(**entry["secretKeyRef"]) for entry in spec.get("apiKeys", ())),
        limits=TenantLimits(
            requests_per_minute=limits.get("requestsPerMinute"),
            tokens_per_minute=limits.get("tokensPerMinute"),
            max_in_flight=limits.get("maxInFlight"),
        ),
        models=tuple(spec.get("models", ())),
    )
