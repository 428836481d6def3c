"""Tests on real vLLM, in the engine environment's interpreter: `make test` and `make test-engine` see to that."""

import importlib.util
import os

import pytest

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
