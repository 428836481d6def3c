"""The demo's pool and, once objectives are chosen, its resource documents."""

import yaml

from proserve_cli.demo_plan import KEYS, DemoPlan, DemoSettings
from proserve_core.pools import EnginePool, EngineSettings, ModelOrigin, ModelSource, PoolModel
from proserve_core.resources import parse_resources

MODEL = "demo"
ENGINES = 2
API_VERSION = "proserve.dev/v1alpha1"

# Prompts repeat from run to run; a prefix cache would make each run faster than the one before.
ENGINE_ARGUMENTS = ("--no-enable-prefix-caching",)


def demo_pool(settings: DemoSettings) -> EnginePool:
    """Two engines of the generated model."""
    return EnginePool(
        name=MODEL,
        namespace="default",
        model=PoolModel(name=MODEL, source=ModelSource(origin=ModelOrigin.GENERATED, location=settings.model)),
        replicas=ENGINES,
        engine=EngineSettings(args=ENGINE_ARGUMENTS),
    )


def demo_resources(plan: DemoPlan, settings: DemoSettings, *, router: str | None = None) -> str:
    """Classes with the chosen objectives, a tenant for each, its key, and the pool, as YAML; `router` spreads the
    requests, None: the default one."""
    documents: list[dict[str, object]] = []
    for each in plan.classes.values():
        objectives = {
            "timeToFirstToken": f"{round(each.objectives.ttft_s * 1e3)}ms",
            "timePerOutputToken": f"{round(each.objectives.tpot_s * 1e3)}ms",
        }
        documents.append(_document("PriorityClass", each.name, {"weight": each.weight, "objectives": objectives}))
        key = {"secretKeyRef": {"name": "demo-keys", "key": each.name}}
        documents.append(_document("Tenant", each.name, {"priorityClassName": each.name, "apiKeys": [key]}))
    documents.append(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "demo-keys"}, "stringData": dict(KEYS)}
    )
    model = {"name": MODEL, "uri": f"generated://{settings.model}"}
    pool: dict[str, object] = {"model": model, "replicas": ENGINES}
    if router is not None:
        pool["routing"] = {"policy": router}
    documents.append(_document("EnginePool", MODEL, pool))
    text = yaml.safe_dump_all(documents, sort_keys=False)
    parse_resources({"demo.yaml": text})
    return text


def _document(kind: str, name: str, spec: dict[str, object]) -> dict[str, object]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
