"""From an older chart, with other images and definitions that lack a field, to this one."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from charts import package_older
from disturbed_service import Service
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


def upgrade(installation: Installation, older: Callable[[], None]) -> None:
    if images(installation) == {installation.image}:
        older()
    installation.upgrade()
    installation.cluster.wait_for(
        lambda: images(installation) == {installation.image}, limit_s=240, what="rollout of the engines"
    )
    installation.wait_pods("tiny", 2)


@pytest.fixture
def older(installation: Installation, node: SingleNode, tmp_path: Path) -> Callable[[], None]:
    """Makes the release that of the older chart, and the engines, too; it has been called."""
    image = f"{installation.image}-{OLDER}"
    node.tag_image(installation.image, image)
    chart = package_older(node, tmp_path, version=OLDER, lacks=FIELD)

    def install() -> None:
        installation.upgrade(chart=chart, values={"image.tag": image.rsplit(":", 1)[1]})
        node.wait_for(lambda: images(installation) == {image}, limit_s=240, what="engines of the older chart")
        installation.wait_pods("tiny", 2)

    install()
    return install


async def test_upgrade_loses_no_stream_and_brings_the_new_field(
    service: Service, node: SingleNode, older: Callable[[], None]
) -> None:
    # Those of examples/kubernetes.yaml.
    users = ("ppc/interactive", "ppc/batch", "ptn/product", "ptn/reports", "epool/tiny")
    before = {each["metadata"]["uid"]: each["spec"] for each in node.get(*users)["items"]}
    assert not takes_the_field(node)
    await service.disturbed(partial(upgrade, older=older))
    assert takes_the_field(node)
    assert {each["metadata"]["uid"]: each["spec"] for each in node.get(*users)["items"]} == before
