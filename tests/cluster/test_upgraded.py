"""From an older chart, with other images and definitions that lack a field, to this one."""

import json
from pathlib import Path

import pytest

from charts import package_older
from disturbed_service import assert_nothing_lost, disturbed
from installation import Installation
from single_node import SingleNode

OLDER = "0.0.9"
FIELD = ("spec", "pod", "sharedMemory")


def takes_the_field(node: SingleNode) -> bool:
    spec = {"model": {"name": "any", "uri": "generated://tiny"}, FIELD[1]: {FIELD[2]: "64Mi"}}
    pool = {"apiVersion": "proserve.dev/v1alpha1", "kind": "EnginePool", "metadata": {"name": "any"}, "spec": spec}
    arguments = ["create", "--dry-run=server", "--validate=strict", "-f", "-"]
    reply = node.run("kubectl", *arguments, stdin=json.dumps(pool))
    assert reply.returncode == 0 or "unknown field" in reply.stderr, reply.stderr
    return reply.returncode == 0


def images(installation: Installation) -> set[str]:
    """Of all engines that are not on their way out."""
    return {
        installation.cluster.get("pod", name)["spec"]["containers"][0]["image"] for name in installation.pods("tiny")
    }


def upgrade(installation: Installation) -> None:
    installation.upgrade()
    installation.cluster.wait_for(
        lambda: images(installation) == {installation.image}, limit_s=240, what="rollout of the engines"
    )
    installation.wait_pods("tiny", 2)


@pytest.fixture
def older(installation: Installation, node: SingleNode, tmp_path: Path) -> None:
    """The release is that of the older chart, and so are the engines."""
    image = f"{installation.image}-{OLDER}"
    node.tag_image(installation.image, image)
    chart = package_older(node, tmp_path, version=OLDER, lacks=FIELD)
    installation.upgrade(chart=chart, values={"image.tag": image.rsplit(":", 1)[1]})
    node.wait_for(lambda: images(installation) == {image}, limit_s=240, what="engines of the older chart")
    installation.wait_pods("tiny", 2)


@pytest.mark.usefixtures("older")
async def test_upgrade_loses_no_stream_and_brings_the_new_field(installation: Installation, node: SingleNode) -> None:
    users = "enginepools,tenants,priorityclasses.proserve.dev"
    before = {each["metadata"]["uid"]: each["spec"] for each in node.get(users)["items"]}
    assert not takes_the_field(node)
    assert_nothing_lost(await disturbed(installation, upgrade))
    assert takes_the_field(node)
    assert {each["metadata"]["uid"]: each["spec"] for each in node.get(users)["items"]} == before
