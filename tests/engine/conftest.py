"""Tests on real vLLM, in the engine environment's interpreter: `make test` and `make test-engine` see to that."""

import importlib.util
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

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


@pytest.fixture
def gpus_copier(real_engine: "RealEngine", monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's copier, whose streams take their time, in place of the CPU's."""
    from odd_streams import HostComputes
    from proserve_engine.kv.cpu_copier import CpuCopier
    from proserve_engine.kv.cuda_copier import CudaCopier
    from proserve_engine.kv.layers import KvLayers
    from proserve_engine.kv.worker import CopyWorker
    from real_engine import HOST_BLOCKS

    real_engine.finish_copies()
    if not isinstance(real_engine.copier, CpuCopier):
        pytest.skip("the engine has a GPU's copier of its own")
    layers = cast(KvLayers, SimpleNamespace(layers=real_engine.copier._device))
    worker = CopyWorker(CudaCopier(layers, HOST_BLOCKS, HostComputes(3)), real_engine.connector.worker._layers)
    monkeypatch.setattr(real_engine.connector, "worker", worker)
