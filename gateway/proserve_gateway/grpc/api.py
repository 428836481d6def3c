"""The data path over gRPC: `proserve.v1.Inference` on the same intake and dispatch core as HTTP.

Messages are read here and not by the generated handlers: authentication comes first, with the call's headers, so that
nobody without a key can keep a call open by not sending its message; and a message that can't be read is the client's
error (INVALID_ARGUMENT) instead of an internal one. For that both methods are handled as streams of requests, which is
the same on the wire. The call's task is cancelled by grpc when
the client cancels or its deadline passes; that aborts the engine's work.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from proserve_gateway.configuration.catalog import TenantGrant
from proserve_gateway.configuration.catalog_terms import CONTROL_HEADERS
from proserve_gateway.errors import ApiError, client_stalled
from proserve_gateway.grpc.convert import PATHS, check_reply, chunk, parse_request, request_body, response
from proserve_gateway.grpc.errors import message_too_slow, no_message, twice
from proserve_gateway.grpc.limits import GrpcLimits
from proserve_gateway.grpc.status import abort
from proserve_gateway.relay.sse import payloads
from proserve_gateway.requests.answer import Answer
from proserve_gateway.requests.body_budget import HeldBody
from proserve_gateway.requests.dispatch import Dispatcher
from proserve_gateway.requests.dispatch_errors import gateway_fault
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.requests.intake import Intake, new_request_id
from proserve_gateway.rpc import inference_pb2 as pb
from proserve_gateway.seeing.trace_context import TraceContext, trace_context

SERVICE = "proserve.v1.Inference"

_ONCE = frozenset({"authorization", *CONTROL_HEADERS})
"""Keys that say whose a call is and what it asks for: never twice."""

Context: TypeAlias = grpc.aio.ServicerContext[bytes, Message]
T = TypeVar("T")


class GrpcApi:
    """Handlers of the service."""

    def __init__(
        self,
        *,
        intake: Intake,
        dispatcher: Dispatcher,
        clock: Callable[[], float],
        limits: GrpcLimits | None = None,
    ) -> None:
        """`clock` is the dispatcher's: deadlines count from the arrival that is stamped here, when the call's headers
        are there."""
        self._limits = limits or GrpcLimits()
        self._intake = intake
        self._dispatcher = dispatcher
        self._clock = clock

    def handler(self) -> grpc.GenericRpcHandler:
        """For `Server.add_generic_rpc_handlers`."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Generate": grpc.stream_unary_rpc_method_handler(
                    self.generate, response_serializer=pb.GenerateResponse.SerializeToString
                ),
                "GenerateStream": grpc.stream_stream_rpc_method_handler(
                    self.generate_stream, response_serializer=pb.GenerateChunk.SerializeToString
                ),
            },
        )

    async def generate(self, _: object, context: Context) -> pb.GenerateResponse:
        """The whole answer at once."""
        return await self._told(context, self._generate)

    async def generate_stream(self, _: object, context: Context) -> None:
        """The answer as it comes: one message per piece that the engine sent, however many events it holds."""
        await self._told(context, self._generate_stream)

    async def _told(self, context: Context, serve: Callable[[Context, str], Awaitable[T]]) -> T:
        """What `serve` returns; if it fails, the client is told why.

        grpc keeps the exception of `abort` with the call, and so the frames that it passed and what they refer to.
        Requests are in none of them: else only the garbage collector could free their bodies, and it counts no bytes.
        """
        request_id = new_request_id()
        try:
            return await serve(context, request_id)
        except ApiError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - logged, and the client is told
            # Before there was an account; later ones are `Dispatcher`'s and `Answer`'s to book.
            failure = gateway_fault(request_id, error)
            self._intake.refused(failure)
        failure.__traceback__ = failure.__cause__ = failure.__context__ = None
        return await abort(context, failure, request_id)

    async def _generate(self, context: Context, request_id: str) -> pb.GenerateResponse:
        request = await self._accept(context, request_id, stream=False)
        with self._holds(request), await self._dispatcher.answer(request) as answer:
            served = await self._begin(request, answer, context)
            return response(answer.first, served)

    async def _generate_stream(self, context: Context, request_id: str) -> None:
        request = await self._accept(context, request_id, stream=True)
        with self._holds(request):
            answer = await self._dispatcher.answer(request)
            if (task := asyncio.current_task()) is not None:
                answer.on_stall(task.cancel)
            try:
                with answer:
                    await self._pass_on(request, answer, context)
            except asyncio.CancelledError:
                if not answer.stalled:
                    raise
                raise client_stalled() from None

    def _holds(self, request: InferenceRequest) -> HeldBody:
        return self._intake.holds(request.tenant, request.body.size)

    async def _pass_on(self, request: InferenceRequest, answer: Answer, context: Context) -> None:
        served: pb.Served | None = await self._begin(request, answer, context)
        events, before = answer.first, 0
        while events:
            # An engine that does not stream sends its whole answer: one chunk, and not a stream without any.
            data = payloads(events) if answer.streams else [events]
            made = chunk(data, tokens=answer.tokens - before, served=served)
            before = answer.tokens
            if made is not None:
                served = None
                await _write(context, made)
            events = await answer.read()
        if answer.failure is not None:
            raise answer.failure

    async def _accept(self, context: Context, request_id: str, *, stream: bool) -> InferenceRequest:
        arrival_s, waits_s = self._clock(), context.time_remaining()
        metadata = self._metadata(context)
        authorization = metadata.get("authorization")
        grant = self._intake.authenticate(None if authorization is None else authorization.encode(errors="replace"))
        message = await self._message(context, grant)
        try:
            kind, body = request_body(parse_request(message), stream=stream)
        except ApiError as error:
            raise self._counted(error, grant) from None
        return self._intake.accept(
            grant,
            request_id=request_id,
            arrival_s=arrival_s,
            control={key: value for key, value in metadata.items() if key in CONTROL_HEADERS},
            kind=kind,
            path=PATHS[kind],
            body=body,
            trace=_trace(metadata),
            waits_s=waits_s,
            check_reply=check_reply,
        )

    def _metadata(self, context: Context) -> dict[str, str]:
        metadata: dict[str, str] = {}
        for key, value in context.invocation_metadata() or ():
            if key in metadata and key in _ONCE:
                error = twice(key)
                self._intake.refused(error)
                raise error
            if isinstance(value, str):
                metadata[key] = value
        return metadata

    async def _message(self, context: Context, grant: TenantGrant) -> bytes:
        limits, loop, task = self._limits, asyncio.get_running_loop(), asyncio.current_task()
        refusal: ApiError | None = None
        with ExitStack() as held:

            def hold() -> None:
                nonlocal refusal
                try:
                    held.enter_context(self._intake.holds(grant.name, limits.message_bytes))
                except ApiError as error:
                    refusal = error
                    if task is not None:
                        task.cancel()

            held.callback(loop.call_later(limits.message_at_once_s, hold).cancel)
            try:
                async with asyncio.timeout(limits.message_s):
                    message = await context.read()
            except TimeoutError:
                raise self._counted(message_too_slow(limits.message_s), grant) from None
            except asyncio.CancelledError:
                if refusal is None:
                    raise
                raise refusal from None
        if not isinstance(message, bytes):
            raise self._counted(no_message(), grant)
        return message

    def _counted(self, error: ApiError, grant: TenantGrant) -> ApiError:
        self._intake.refused(error, grant)
        return error

    async def _begin(self, request: InferenceRequest, answer: Answer, context: Context) -> pb.Served:
        """Tell how the request is served, in metadata as HTTP does in headers."""
        served = pb.Served(request_id=request.id, priority_class=request.terms.priority_class, engine=answer.engine)
        await context.send_initial_metadata(
            (
                ("x-proserve-request-id", served.request_id),
                ("x-proserve-class", served.priority_class),
                ("x-proserve-engine", served.engine),
            )
        )
        return served


async def _write(context: Context, message: Message) -> None:
    try:
        await context.write(message)
    except grpc.aio.BaseError as error:
        # The call is over, and grpc will cancel its task in a moment.
        raise asyncio.CancelledError from error


def _trace(metadata: Mapping[str, str]) -> TraceContext | None:
    traceparent = metadata.get("traceparent")
    if traceparent is None:
        return None
    return trace_context(traceparent.encode(), metadata.get("tracestate", "").encode())
