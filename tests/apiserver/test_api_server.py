"""The API server that the other tests here run on: it is a real one, and can fail as a real one does."""

from pathlib import Path

import pytest

from api_server import ApiServer
from kubernetes_binaries import module_version

CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata: {name: kept, namespace: default}
data: {colour: green}
"""


def test_server_says_which_version_it_is(api_server: ApiServer) -> None:
    assert module_version("k8s.io/kubernetes") in api_server.kubectl("version")


def test_objects_survive_a_dead_api_server(own_api_server: ApiServer) -> None:
    own_api_server.kubectl("apply", "-f", "-", stdin=CONFIG_MAP)
    own_api_server.stop()
    assert own_api_server.run("kubectl", "get", "configmap", "kept").returncode != 0
    own_api_server.start()
    assert own_api_server.get("configmap", "kept")["data"] == {"colour": "green"}


def test_paused_api_server_answers_nothing_until_it_is_resumed(own_api_server: ApiServer) -> None:
    own_api_server.pause()
    assert own_api_server.run("kubectl", "get", "namespaces", "--request-timeout=1s").returncode != 0
    own_api_server.resume()
    assert "default" in own_api_server.kubectl("get", "namespaces")


def test_controllers_make_pods_for_a_deployment(kubernetes_programs: Path, tmp_path: Path) -> None:
    server = ApiServer(kubernetes_programs, tmp_path, controllers=["deployment-controller", "replicaset-controller"])
    try:
        server.kubectl("create", "deployment", "web", "--image=nowhere/web:1", "--replicas=2")
        server.kubectl("wait", "--for=jsonpath={.status.replicas}=2", "deployment/web", "--timeout=300s")
        assert len(server.get("pods", "-l", "app=web")["items"]) == 2
    finally:
        server.end()


def test_two_servers_run_side_by_side(api_server: ApiServer, own_api_server: ApiServer) -> None:
    own_api_server.kubectl("create", "namespace", "only-here")
    assert api_server.run("kubectl", "get", "namespace", "only-here").returncode != 0


@pytest.mark.parametrize("program", ["helm", "kubectl"])
def test_clients_are_there(api_server: ApiServer, program: str) -> None:
    assert api_server.run(program, "version").returncode == 0
