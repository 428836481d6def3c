"""The client for ordinary code. Safe to share between threads."""

from collections.abc import Iterator
from types import TracebackType

import grpc

from proserve_gateway.client.channels import OPTIONS, ClientTls
from proserve_gateway.client.errors import inference_error
from proserve_gateway.client.messages import Objectives, metadata
from proserve_gateway.rpc import inference_pb2 as pb
from proserve_gateway.rpc.inference_pb2_grpc import InferenceStub


class InferenceClient:
    """Talks to one gateway; use it as a context manager, or `close()` it."""

    def __init__(self, address: str, *, api_key: str | None = None, tls: ClientTls | None = None) -> None:
        """`address` is `HOST:PORT`. Without `tls` the connection is plain text."""
        self._channel = (
            grpc.insecure_channel(address, options=OPTIONS)
            if tls is None
            else grpc.secure_channel(address, tls.credentials(), options=OPTIONS)
        )
        self._stub = InferenceStub(self._channel)  # type: ignore[no-untyped-call]
        self._api_key = api_key

    def generate(
        self, request: pb.GenerateRequest, *, objectives: Objectives | None = None, timeout_s: float | None = None
    ) -> pb.GenerateResponse:
        """The whole answer at once. `timeout_s` bounds all of it, at the engine too.

        Raises:
            InferenceError: there is none.
        """
        try:
            answer: pb.GenerateResponse = self._stub.Generate(
                request, metadata=metadata(self._api_key, objectives), timeout=timeout_s
            )
        except grpc.RpcError as error:
            raise inference_error(error) from error
        return answer

    def stream(
        self, request: pb.GenerateRequest, *, objectives: Objectives | None = None, timeout_s: float | None = None
    ) -> Iterator[pb.GenerateChunk]:
        """The answer as it comes; leaving the loop early cancels the request.

        Raises:
            InferenceError: it did not end as an answer does.
        """
        call = self._stub.GenerateStream(request, metadata=metadata(self._api_key, objectives), timeout=timeout_s)
        try:
            yield from call
        except grpc.RpcError as error:
            raise inference_error(error) from error
        finally:
            call.cancel()

    def close(self) -> None:
        """End the connection and what is under way on it."""
        self._channel.close()

    def __enter__(self) -> "InferenceClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
