"""Replays requests against an OpenAI-compatible server, open loop, and records when each token arrived.

Open loop: a request is sent at its arrival time however late the answers are, as independent users would. Prompts are
token ids and outputs have a fixed length (`ignore_eos`), so every run does the same work whatever the model says.
Tokens are counted by the usage that the server reports with each event, since an event can carry several tokens.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence

import msgspec

from proserve_core.facts import encode_facts
from proserve_core.objectives import ServiceTerms
from proserve_lab.stream_client import StreamError, stream

VOCABULARY = range(300, 1000)
"""Token ids that are ordinary text in any byte-level vocabulary of 1,024 or more."""


class ReplayRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request to send."""

    id: str
    arrival_s: float
    """Seconds after the start of the replay."""
    prompt_tokens: int
    output_tokens: int
    terms: ServiceTerms
    """What the request is worth; only for the judgement, a gateway finds the class by the key."""
    api_key: str


class ReplayRecord(msgspec.Struct, kw_only=True):
    """What became of one request. Times, the request's arrival included, are on the replayer's clock."""

    request: ReplayRequest
    sent_s: float
    tokens_s: list[float] = []
    """Arrival of each token at the client."""
    error: str | None = None
    status: int | None = None
    """HTTP status of the error, None if the server never answered."""


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _StreamedError(msgspec.Struct):
    message: str = ""


class _Event(msgspec.Struct):
    usage: _Usage | None = None
    error: _StreamedError | None = None


_event_decoder = msgspec.json.Decoder(_Event)


def prompt_ids(seed: int, count: int) -> list[int]:
    """A prompt of `count` token ids that no other seed shares a prefix with."""
    draw = random.Random(seed)
    return [draw.choice(VOCABULARY) for _ in range(count)]


class Replayer:
    """Sends requests to one server and records what comes back, against one clock."""

    def __init__(self, *, url: str, model: str, timeout_s: float, facts: bool = False) -> None:
        """See `replay`."""
        self._url = url
        self._facts = facts
        self._model = model
        self._timeout_s = timeout_s
        self._start_s = time.perf_counter()

    @property
    def now_s(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start_s

    def body(self, request: ReplayRequest, *, seed: int) -> bytes:
        """The request's HTTP body; its prompt depends on `seed` only."""
        body: dict[str, object] = {
            "model": self._model,
            "prompt": prompt_ids(seed, request.prompt_tokens),
            "max_tokens": request.output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        if self._facts:
            body["vllm_xargs"] = encode_facts(request.terms, 0.0)
        return msgspec.json.encode(body)

    async def send(self, record: ReplayRecord, body: bytes) -> None:
        """Send one request and fill its record. A cancelled one keeps the tokens that it got."""
        request = record.request

        def take(received_s: float, data: bytes) -> None:
            event = _event_decoder.decode(data)
            if event.error is not None:
                record.error = f"error in the stream: {event.error.message}"
                record.status = 200
            elif event.usage is not None:
                new = event.usage.completion_tokens - len(record.tokens_s)
                record.tokens_s.extend([received_s - self._start_s] * new)

        record.sent_s = self.now_s
        try:
            sent_s = await stream(
                url=f"{self._url}/v1/completions",
                headers={"authorization": f"Bearer {request.api_key}"},
                body=body,
                on_event=take,
                timeout_s=self._timeout_s,
            )
        except StreamError as error:
            record.error = record.error or str(error)
            record.status = record.status or error.status
            return
        record.sent_s = sent_s - self._start_s
        if record.error is None and len(record.tokens_s) != request.output_tokens:
            record.error = f"expected {request.output_tokens} tokens, got {len(record.tokens_s)}"


async def replay(
    requests: Sequence[ReplayRequest],
    *,
    url: str,
    model: str,
    timeout_s: float,
    facts: bool = False,
    first_seed: int = 0,
    on_done: Callable[[ReplayRecord], None] = lambda _: None,
) -> list[ReplayRecord]:
    """Send every request at its time and wait for all answers.

    Args:
        requests: In order of arrival.
        url: Root of the server, `http://HOST:PORT`.
        model: Name that the server serves.
        timeout_s: Limit of one request; a slower one is recorded as an error.
        facts: Tell the server each request's terms as a gateway would: for engines without one in front.
        first_seed: Prompt of the first request, the others count up: replays with prompts of their own share none.
        on_done: Called with each record as it is finished.

    Returns:
        One record per request, in the order of `requests`. Failures are records with an error, never missing.
    """
    replayer = Replayer(url=url, model=model, timeout_s=timeout_s, facts=facts)
    bodies = [replayer.body(request, seed=seed) for seed, request in enumerate(requests, start=first_seed)]
    begin_s = replayer.now_s

    async def send(request: ReplayRequest, body: bytes) -> ReplayRecord:
        record = ReplayRecord(
            request=msgspec.structs.replace(request, arrival_s=begin_s + request.arrival_s), sent_s=0.0
        )
        await asyncio.sleep(record.request.arrival_s - replayer.now_s)
        await replayer.send(record, body)
        on_done(record)
        return record

    return await asyncio.gather(*(send(request, body) for request, body in zip(requests, bodies, strict=True)))
