"""Tests on real vLLM, in the engine environment's interpreter: `make test` and `make test-engine` see to that."""

import importlib.util
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from real_engine import RealEngine

if importlib.util.find_spec("vllm") is None and os.environ.get("PROSERVE_REQUIRE_ENGINE"):
    raise pytest.UsageError(
        "PROSERVE_REQUIRE_ENGINE is set, but this interpreter has no vLLM: run the tests with `make test` or with the "
        "python of the environment that `make engine` builds"
    )

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_model() -> str:
    """Folder of the generated model."""
    from proserve_engine.tiny_model import resolve_model

    return resolve_model("generated://tiny")


@pytest.fixture(scope="session")
def real_engine(tiny_model: str) -> "RealEngine":
    """One vLLM engine in this process for all tests that exchange its scheduler."""
    from real_engine import RealEngine

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_HOST_IP", "127.0.0.1")
        patch.delenv("PROSERVE_POLICY", raising=False)
        return RealEngine(tiny_model)
