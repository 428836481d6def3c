"""What becomes of watches that the API server ends for good."""

import asyncio
import json
from collections.abc import Sized
from itertools import islice
from pathlib import Path
from typing import Any

import kmock
import kopf
import pytest

from proserve_operator.kube_client import KubeError
from proserve_operator.watching import _configure, registry, watch

pytestmark = pytest.mark.kmock(cls=kmock.RawHandler)
LIMIT_S = 60.0
GROUP = "/apis/proserve.dev/v1alpha1"
KINDS = {
    "namespaces": "Namespace",
    "enginepools": "EnginePool",
    "priorityclasses": "PriorityClass",
    "tenants": "Tenant",
}
RESOURCES = [
    {"name": plural, "singularName": "", "kind": kind, "namespaced": True, "verbs": ["get", "list", "watch"]}
    for plural, kind in KINDS.items()
]
REFUSED = {"kind": "Status", "code": 403, "reason": "Forbidden", "message": "enginepools is forbidden"}


@pytest.fixture
def api(kmock: kmock.RawHandler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> kmock.RawHandler:
    """Serves our resources, of which there are none."""
    config = {
        "current-context": "only",
        "clusters": [{"name": "only", "cluster": {"server": str(kmock.url).rstrip("/")}}],
        "users": [{"name": "only", "user": {"token": "t"}}],
        "contexts": [{"name": "only", "context": {"cluster": "only", "user": "only"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    kmock["get /api"] << {"versions": ["v1"]}
    kmock["get /api/v1"] << {"resources": RESOURCES[:1]}
    kmock["get /apis"] << {
        "groups": [
            {
                "name": "proserve.dev",
                "versions": [{"version": "v1alpha1"}],
                "preferredVersion": {"version": "v1alpha1"},
            }
        ]
    }
    kmock[f"get {GROUP}"] << {"resources": RESOURCES[1:]}
    return kmock


def watched(params: Any) -> bool:
    return dict(params).get("watch") == "true"


async def test_watch_that_is_ended_for_good_is_an_error_and_leaves_nothing_running(api: kmock.RawHandler) -> None:
    def reply(request: Any) -> Any:
        if not watched(request.params):
            return {"metadata": {"resourceVersion": "1"}, "items": []}
        if "enginepools" in str(request.url):
            return {"type": "ERROR", "object": REFUSED}
        return lambda: asyncio.sleep(LIMIT_S)

    api["get"] << reply
    before = asyncio.all_tasks()
    handlers = registry(lambda *_: None, children=())
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(KubeError, match="enginepools is forbidden"):
            await watch(handlers, namespaces=("team",), ready=asyncio.Event())
    assert {task.get_name() for task in asyncio.all_tasks() - before if "watcher" in task.get_name()} == set()


def test_request_of_a_watch_that_is_refused_is_tried_without_end() -> None:
    settings = kopf.OperatorSettings()
    _configure(settings)
    pauses_s: Any = settings.networking.error_backoffs
    # kopf takes what has a length for a limit.
    assert not isinstance(pauses_s, Sized)
    for _ in range(2):
        some_s = list(islice(pauses_s, 1000))
        assert (some_s[0], some_s[-1], len(some_s)) == (1.0, 15.0, 1000)
