"""What every test may use: the hypothesis profile and the real engine's interpreter. And who runs which test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

import worker_groups
from environments import EnvironmentSetupError
from kubernetes_binaries import COMPLETE, binaries_folder
from worker_groups import GroupScheduling

ROOT = Path(__file__).resolve().parent.parent

# Wall time says nothing on a busy machine, so hypothesis has no deadline. CI draws the same examples on every run.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


PROCESS_TIMEOUT_S = {"engine": 300, "e2e": 300, "apiserver": 300, "cluster": 900}
"""An engine start alone takes a minute on a busy machine; images of a cluster are built from nothing once."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in the folders of tests with processes, and give it the time that starting processes takes."""
    for item in items:
        for folder, timeout_s in PROCESS_TIMEOUT_S.items():
            if (ROOT / "tests" / folder) in item.path.parents:
                item.add_marker(folder)
                if item.get_closest_marker("timeout") is None:
                    item.add_marker(pytest.mark.timeout(timeout_s))
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
    message = "the programs of Kubernetes are not built; `make kubernetes` does it (once per machine)"
    try:
        folder = binaries_folder()
    except EnvironmentSetupError as error:
        message = str(error)
    else:
        if (folder / COMPLETE).exists():
            return folder
    if os.environ.get("PROSERVE_REQUIRE_ENGINE"):
        pytest.fail(message)
    pytest.skip(message)
