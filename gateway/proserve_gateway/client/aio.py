"""The client for asyncio code."""

from collections.abc import AsyncIterator
from types import TracebackType

import grpc
import grpc.aio

from proserve_gateway.client.channels import OPTIONS, ClientTls
from proserve_gateway.client.errors import inference_error
from proserve_gateway.client.messages import Objectives, metadata
from proserve_gateway.rpc import inference_pb2 as pb
from proserve_gateway.rpc.inference_pb2_grpc import InferenceStub


class AsyncInferenceClient:
    """Talks to one gateway; use it as an async context manager, or `close()` it. Create it inside the loop."""

    def __init__(self, address: str, *, api_key: str | None = None, tls: ClientTls | None = None) -> None:
        """As `InferenceClient`."""
        self._channel = (
            grpc.aio.insecure_channel(address, options=OPTIONS)
            if tls is None
            else grpc.aio.secure_channel(address, tls.credentials(), options=OPTIONS)
        )
        self._stub = InferenceStub(self._channel)  # type: ignore[no-untyped-call]
        self._api_key = api_key

    async def generate(
        self, request: pb.GenerateRequest, *, objectives: Objectives | None = None, timeout_s: float | None = None
    ) -> pb.GenerateResponse:
        """See `InferenceClient.generate`."""
        try:
            answer: pb.GenerateResponse = await self._stub.Generate(
                request, metadata=metadata(self._api_key, objectives), timeout=timeout_s
            )
        except grpc.aio.AioRpcError as error:
            raise inference_error(error) from error
        return answer

    async def stream(
        self, request: pb.GenerateRequest, *, objectives: Objectives | None = None, timeout_s: float | None = None
    ) -> AsyncIterator[pb.GenerateChunk]:
        """See `InferenceClient.stream`."""
        call = self._stub.GenerateStream(request, metadata=metadata(self._api_key, objectives), timeout=timeout_s)
        try:
            async for chunk in call:
                yield chunk
        except grpc.aio.AioRpcError as error:
            raise inference_error(error) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        """End the connection and what is under way on it."""
        await self._channel.close()

    async def __aenter__(self) -> "AsyncInferenceClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
