"""What of the connector depends on how vLLM runs a forward pass and sends on its output."""

import pytest

pytest.importorskip("vllm", reason="the engine environment is missing: make engine")

import pickle
from types import SimpleNamespace

from vllm.config import CUDAGraphMode

from proserve_engine.kv.messages import CopyReport, CopyResult
from proserve_engine.vllm.kv_connector import WorkerMetadata, layers_wait


@pytest.mark.parametrize(
    ("mode", "metadata", "expected"),
    [
        pytest.param(CUDAGraphMode.NONE, {}, True, id="eager"),
        pytest.param(CUDAGraphMode.PIECEWISE, {}, True, id="graph-in-pieces"),
        pytest.param(CUDAGraphMode.FULL, {}, False, id="one-graph"),
        pytest.param(CUDAGraphMode.NONE, None, False, id="one-graph-of-the-second-model-runner"),
    ],
)
def test_layers_wait_unless_the_step_is_one_graph(mode: CUDAGraphMode, metadata: object, expected: bool) -> None:
    assert layers_wait(SimpleNamespace(cudagraph_runtime_mode=mode, attn_metadata=metadata)) is expected


def test_a_report_is_asked_for_once_when_it_is_sent_and_arrives_complete() -> None:
    asked = []

    def ask() -> CopyReport:
        asked.append(True)
        return CopyReport(results={7: CopyResult(intact=False, copy_s=0.5)}, waited_s=0.25)

    metadata = WorkerMetadata(ask)
    assert asked == []
    received = pickle.loads(pickle.dumps(metadata))
    assert received.report == metadata.report == ask()
    assert len(asked) == 2


def test_reports_of_several_workers_hold_for_all_of_them() -> None:
    one = WorkerMetadata(lambda: CopyReport(results={1: CopyResult(intact=True, copy_s=0.5)}))
    other = WorkerMetadata(lambda: CopyReport(results={1: CopyResult(intact=False, copy_s=0.25)}))
    assert one.aggregate(other).report.results == {1: CopyResult(intact=False, copy_s=0.5, workers=2)}
