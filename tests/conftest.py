"""What every test may use: the hypothesis profile and the real engine's interpreter. And who runs which test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import worker_groups
from environments import EnvironmentSetupError
from kubernetes_binaries import COMPLETE, KUBERNETES, NETWORK_POLICIES, Build
from worker_groups import GroupScheduling

ROOT = Path(__file__).resolve().parent.parent

# Wall time says nothing on a busy machine: hypothesis has no deadline, and drawing may be slow. CI draws the same
# examples on every run.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


PROCESS_FOLDERS = ("engine", "e2e", "apiserver", "cluster")
PROCESS_TIMEOUT_S = 1800
"""As all limits here it finds what hangs, and measures nothing: an engine that starts in ten seconds takes minutes on a
machine that is busy, and images of a cluster are built from nothing once."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in the folders of tests with processes, and give it the time that starting processes takes."""
    for item in items:
        for folder in PROCESS_FOLDERS:
            if (ROOT / "tests" / folder) in item.path.parents:
                item.add_marker(folder)
                if item.get_closest_marker("timeout") is None:
                    item.add_marker(pytest.mark.timeout(PROCESS_TIMEOUT_S))
    items.sort(key=lambda item: worker_groups.turn(item.nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> GroupScheduling:
    """Of the workers of `-n`, whatever `--dist` says."""
    return GroupScheduling(config, log)


@pytest.fixture(scope="session")
def engine_python() -> str:
    """Interpreter that can run vLLM. Without one the test is skipped, or fails where PROSERVE_REQUIRE_ENGINE is set."""
    overlay = ROOT / ".venv-engine" / "bin" / "python"
    candidate = os.environ.get("PROSERVE_ENGINE_PYTHON") or (str(overlay) if overlay.exists() else sys.executable)
    probe = subprocess.run([candidate, "-c", "import vllm"], capture_output=True, text=True, check=False)
    if probe.returncode == 0:
        return candidate
    message = f"{candidate} cannot import vllm; build the engine environment with `make engine`"
    if os.environ.get("PROSERVE_REQUIRE_ENGINE"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def kubernetes_programs() -> Path:
    """Folder with etcd, kube-apiserver, kubectl, helm and the others.

    Without them the test is skipped, or fails where PROSERVE_REQUIRE_ENGINE is set.
    """
    return built_programs(KUBERNETES)


@pytest.fixture(scope="session")
def network_policy_programs() -> Path:
    """Folder with the agent that enforces NetworkPolicies; skipped or failed as above."""
    return built_programs(NETWORK_POLICIES)


def built_programs(build: Build) -> Path:
    message = f"the programs of {build.name} are not built; `make kubernetes` does it (once per machine)"
    try:
        folder = build.folder
    except EnvironmentSetupError as error:
        message = str(error)
    else:
        if (folder / COMPLETE).exists():
            return folder
    if os.environ.get("PROSERVE_REQUIRE_ENGINE"):
        pytest.fail(message)
    pytest.skip(message)
