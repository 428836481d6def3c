"""gRPC through `proserve up`."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proserve_gateway.rpc import inference_pb2
from proserve_gateway.rpc.inference_pb2_grpc import InferenceStub
from running_proserve import RunningProserve

METADATA = (("authorization", "Bearer sk-demo-batch"),)


def request(model: str = "tiny", tokens: int = 6) -> inference_pb2.GenerateRequest:
    return inference_pb2.GenerateRequest(
        model=model,
        chat=inference_pb2.Chat(messages=[inference_pb2.ChatMessage(role="user", content="Hello")]),
        sampling=inference_pb2.Sampling(max_tokens=tokens),
    )


def test_a_stream_says_the_same_as_the_whole_answer(shared: RunningProserve) -> None:
    with grpc.insecure_channel(shared.grpc) as channel:
        stub = InferenceStub(channel)  # type: ignore[no-untyped-call]
        whole = stub.Generate(request(), metadata=METADATA, timeout=120)
        parts = list(stub.GenerateStream(request(), metadata=METADATA, timeout=120))
    assert "".join(part.text for part in parts) == whole.text
    assert whole.usage.output_tokens == 6
    assert whole.served.priority_class == "batch"


@pytest.mark.parametrize(
    ("model", "metadata", "code"),
    [
        ("tiny", (("authorization", "Bearer sk-wrong"),), grpc.StatusCode.UNAUTHENTICATED),
        ("tiny", (), grpc.StatusCode.UNAUTHENTICATED),
        ("huge", METADATA, grpc.StatusCode.NOT_FOUND),
    ],
)
def test_errors_have_their_status(
    shared: RunningProserve, model: str, metadata: tuple[tuple[str, str], ...], code: grpc.StatusCode
) -> None:
    with grpc.insecure_channel(shared.grpc) as channel:
        stub = InferenceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as caught:
            stub.Generate(request(model), metadata=metadata, timeout=120)
    assert caught.value.code() is code


def test_health_is_served(shared: RunningProserve) -> None:
    with grpc.insecure_channel(shared.grpc) as channel:
        replies = health_pb2_grpc.HealthStub(channel).Watch(  # type: ignore[attr-defined]
            health_pb2.HealthCheckRequest(service=""), timeout=120
        )
        # It follows the gateway's readiness with a little delay.
        assert any(reply.status == health_pb2.HealthCheckResponse.SERVING for reply in replies)
