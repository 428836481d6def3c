"""A real cluster with a release of charts/proserve in it, shared by all tests here; they run in the order of the files.

The cluster is that of KUBECONFIG, or one on this machine (`single_node`). What a failed test leaves behind (`kubectl
describe`, logs of all pods and of the node) goes to the folder of PROSERVE_CLUSTER_LOGS, else to one that the failure's
report names.
"""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

import images
import single_node
from disturbed_service import SEATS, Service
from environments import ROOT
from given_cluster import IMAGE_VARIABLE, GivenCluster
from images import Images
from installation import EXAMPLES, Installation
from others_kinds import SERVICE_MONITOR, definition
from single_node import SingleNode

Cluster = SingleNode | GivenCluster

_RUNNING: list[Cluster] = []
"""For the hook below, which has no other way to it."""


@pytest.fixture(scope="session")
def cluster(kubernetes_programs: Path) -> Iterator[Cluster]:
    """The cluster of KUBECONFIG, if that is set, else one on this machine, with DNS."""
    given = bool(os.environ.get("KUBECONFIG"))
    missing = None if given else single_node.missing_here() or images.missing_here()
    if missing and os.environ.get("PROSERVE_REQUIRE_ENGINE"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    # Short, because sockets are in it.
    folder = Path(tempfile.mkdtemp(prefix="psn-"))
    try:
        running = _given(kubernetes_programs, folder) if given else _made(kubernetes_programs, folder)
        _RUNNING.append(running)
        try:
            yield running
        finally:
            running.end()
            _RUNNING.clear()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _given(programs: Path, folder: Path) -> GivenCluster:
    found = GivenCluster(programs, folder)
    if "proserve.dev" in found.kubectl("get", "crd", "-o", "name"):
        pytest.fail("the cluster of KUBECONFIG has ProServe already; these tests end by removing it: give another one")
    if not os.environ.get(IMAGE_VARIABLE):
        pytest.fail(f"set {IMAGE_VARIABLE} to an image of the Dockerfile here, REPOSITORY:TAG, that the nodes can pull")
    return found


def _made(programs: Path, folder: Path) -> SingleNode:
    builder = Images(folder)
    archives = [builder.program(programs / name, tag=f"localhost/{name}:1") for name in ("pause", "coredns")]
    made = SingleNode(programs, folder)
    try:
        for archive in archives:
            made.import_image(archive)
        made.start_dns()
        # The operator makes monitors where their kind is there.
        made.kubectl("apply", "-f", "-", stdin=definition(SERVICE_MONITOR))
        made.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    except BaseException:
        made.end()
        raise
    return made


@pytest.fixture(scope="session")
def node(cluster: Cluster) -> SingleNode:
    """For tests that do to the cluster what they may do to their own only."""
    if isinstance(cluster, GivenCluster):
        pytest.skip("not on the cluster of KUBECONFIG, which is somebody's")
    return cluster


@pytest.fixture(scope="session")
def installation(cluster: Cluster) -> Installation:
    """The chart installed with `helm install --wait`, and examples/kubernetes.yaml, with slower engines, applied and
    ready."""
    image = os.environ.get(IMAGE_VARIABLE, "")
    if isinstance(cluster, SingleNode):
        image = "localhost/proserve:test"
        cluster.import_image(Images(cluster.folder).from_dockerfile(ROOT / "Dockerfile", tag=image))
    made = Installation(cluster, image=image)
    made.install()
    emulated = "    runtime: Emulated\n"
    example = (EXAMPLES / "kubernetes.yaml").read_text()
    assert example.count(emulated) == 1
    # 70 ms for a token, so that the streams leave two cores time for the cluster.
    arguments = f"    args: [--speed=0.1, --max-sequences={SEATS}]\n"
    cluster.kubectl("apply", "-f", "-", stdin=example.replace(emulated, emulated + arguments))
    made.wait_ready("tiny")
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(installation: Installation) -> AsyncIterator[Service]:
    """With a promise that this machine can keep."""
    made = Service(installation)
    try:
        await made.promise()
        yield made
    finally:
        made.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what may explain a failure."""
    report = yield
    if report.failed and _RUNNING:
        folder = Path(os.environ.get("PROSERVE_CLUSTER_LOGS") or tempfile.mkdtemp(prefix="proserve-cluster-logs-"))
        _RUNNING[0].collect(folder / f"{item.name}-{report.when}")
        report.sections.append(("cluster", f"descriptions and logs are in {folder}"))
    return report
