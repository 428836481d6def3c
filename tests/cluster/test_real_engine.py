"""One pool with a real vLLM: the packages of the engine environment, lent to a pod of the engine image."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from environments import ROOT, EnvironmentSetupError, engine_folder
from images import Images
from installation import Installation
from single_node import SingleNode
from steady_load import Client, Load

IMAGE = "localhost/proserve-engine:test"
TENANT = Client(name="any", key="sk-demo-reports", streams=2, tokens=[20])


def pool(packages: Path) -> dict[str, Any]:
    """The folder belongs to root and nobody else may read it, so this engine is root, with no capability."""
    root = {"runAsNonRoot": False, "runAsUser": 0}
    mount = {"name": "packages", "mountPath": "/packages", "readOnly": True}
    return {
        "apiVersion": "proserve.dev/v1alpha1",
        "kind": "EnginePool",
        "metadata": {"name": "real", "namespace": "default"},
        "spec": {
            "model": {"name": "real", "uri": "generated://tiny"},
            "engine": {"image": IMAGE, "env": [{"name": "PYTHONPATH", "value": "/packages"}]},
            "pod": {
                "imagePullPolicy": "Never",
                "sharedMemory": "256Mi",
                "template": {
                    "spec": {
                        "securityContext": root,
                        "volumes": [{"name": "packages", "hostPath": {"path": str(packages), "type": "Directory"}}],
                        "containers": [{"name": "engine", "volumeMounts": [mount]}],
                    }
                },
            },
        },
    }


@pytest.fixture(scope="module")
def packages() -> Path:
    """vLLM and all that it needs, for this version of Python."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the image has Python 3.11, this is another")
    try:
        folder = engine_folder()
    except EnvironmentSetupError as error:
        pytest.skip(str(error))
    if not folder.exists():
        pytest.skip("no vLLM on this machine; `make engine` installs it")
    return folder


async def test_real_engine_serves(installation: Installation, node: SingleNode, packages: Path) -> None:
    node.import_image(Images(node.folder).from_dockerfile(ROOT / "engine-image" / "Dockerfile", tag=IMAGE))
    node.kubectl("apply", "-f", "-", stdin=json.dumps(pool(packages)))
    try:
        installation.wait_ready("real", limit_s=240)
        load = Load(installation.http, [TENANT], model="real")
        async with load.running():
            await load.begun(TENANT.streams)
        assert load.failures() == load.refused() == []
    finally:
        node.kubectl("delete", "enginepool", "real")
