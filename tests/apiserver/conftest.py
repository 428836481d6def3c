"""One API server for all tests that leave it as it was; `own_api_server` is for those that break it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api_server import ApiServer
from cluster_objects import install_definitions


@pytest.fixture(scope="session")
def api_server(kubernetes_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Shared; each test uses names or namespaces of its own."""
    server = ApiServer(kubernetes_programs, tmp_path_factory.mktemp("api"))
    yield server
    server.end()


@pytest.fixture
def own_api_server(kubernetes_programs: Path, tmp_path: Path) -> Iterator[ApiServer]:
    server = ApiServer(kubernetes_programs, tmp_path)
    yield server
    server.end()


@pytest.fixture(scope="session")
def controlled_api_server(kubernetes_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One with our kinds and the controllers that make pods of Deployments, within quotas. No node, so no pod runs."""
    controllers = ("deployment-controller", "replicaset-controller", "resourcequota-controller")
    server = ApiServer(kubernetes_programs, tmp_path_factory.mktemp("controlled"), controllers=controllers)
    install_definitions(server)
    yield server
    server.end()
