"""JSON of engines that is damaged is the engine's failure, wherever it is read."""

from collections.abc import Callable

import pytest

from proserve_gateway.errors import ApiError
from proserve_gateway.grpc.convert import chunk, response
from proserve_gateway.relay.continuation_events import ContinuedEvents, Envelope, envelope_of
from proserve_gateway.relay.relay import Relay
from proserve_gateway.relay.responses_relay import ResponsesRelay, decode_response
from proserve_gateway.relay.sse import SseError, decode_event, decode_reply
from proserve_gateway.relay.sse_relay import SseRelay
from proserve_gateway.rpc import inference_pb2 as pb

DEEP = b'{"choices":' + b"[" * 100_000
DAMAGED = {
    "not UTF-8": b'{"type":"\xff","status":"\xff","choices":[{"text":"\xff","finish_reason":"\xff"}]}',
    "key that is not UTF-8": b'{"\xff":1,"usage":{"prompt_tokens":1},"choices":5,"type":5,"status":5}',
    "half a character": b'{"type":"\\ud800","status":"\\ud800","choices":[{"finish_reason":"\\ud800"}]}',
    "cut off": b'{"choices":[{"ind',
    "too deep": DEEP,
}
ENVELOPE = Envelope(id="c", object="text_completion", created=1, model="tiny")


def fed(make: Callable[[], Relay]) -> Callable[[bytes], object]:
    def read(payload: bytes) -> object:
        relay = make()
        got = relay.feed(b"data: " + payload + b"\n\n")
        if relay.failure is not None:
            raise relay.failure
        return got

    return read


def continued(payload: bytes) -> bytes:
    events = ContinuedEvents(envelope=ENVELOPE, chat=False, prompt_tokens=1, sent_tokens=1, stops=None)
    return events.feed(b"data: " + payload + b"\n\n")


READERS: dict[str, Callable[[bytes], object]] = {
    "reply": decode_reply,
    "event": decode_event,
    "response": decode_response,
    "stream of several choices": fed(lambda: SseRelay(include_usage=False, continuous_usage=False, choices=2)),
    "stream of a response": fed(lambda: ResponsesRelay(most_tokens=10)),
    "continued stream": continued,
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_damaged_is_the_engines_failure(reader: str, damage: str) -> None:
    with pytest.raises(SseError, match="not valid"):
        READERS[reader](DAMAGED[damage])


@pytest.mark.parametrize("damage", DAMAGED)
def test_so_it_is_over_grpc(damage: str) -> None:
    for read in (lambda data: response(data, pb.Served()), lambda data: chunk([data], tokens=1, served=None)):
        with pytest.raises(ApiError, match="not valid") as caught:
            read(DAMAGED[damage])
        assert caught.value.status == 502


def test_first_events_that_are_damaged_have_no_envelope() -> None:
    assert envelope_of(b"".join(b"data: %s\n\n" % damaged for damaged in DAMAGED.values())) is None


def test_error_event_is_passed_on_as_json_that_clients_can_read() -> None:
    relay = SseRelay(include_usage=False, continuous_usage=False)
    relay.feed(b'data: {"error":{"message":"caf\xe9","code":400}}\n\n')
    assert relay.failure is not None
    assert relay.failure.refusal
    assert relay.failure.reported == '{"message":"caf\ufffd","code":400}'.encode()
