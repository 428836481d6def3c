"""What every test may use: the hypothesis profile and the real engine's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# Wall time says nothing on a busy machine, so hypothesis has no deadline. CI draws the same examples on every run.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What lies in tests/engine needs the engine, what lies in tests/e2e starts processes."""
    for item in items:
        for folder in ("engine", "e2e"):
            if (ROOT / "tests" / folder) in item.path.parents:
                item.add_marker(folder)


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
