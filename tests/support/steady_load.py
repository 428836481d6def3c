"""Streams that are always there: where one ends the next begins, so that whatever a test does meets all of them."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence

import httpx
import msgspec


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A group of streams of one tenant, and what its class promises."""

    name: str
    key: str
    streams: int
    first_token_s: float
    output_token_s: float


class Outcome(msgspec.Struct, kw_only=True):
    """What became of one stream."""

    client: Client
    began_s: float
    status: int = 0
    """Of the reply; 0: none came."""
    problem: str = ""
    """Why a stream that was accepted is not whole; empty if it is."""
    tokens: int = 0
    late_tokens: int = 0
    """Those that came after their deadline."""

    @property
    def attained(self) -> bool:
        """Whether all was on time."""
        return self.status == 200 and not self.problem and self.late_tokens == 0


class Load:
    """Runs while its `async with` block does; afterwards `outcomes` holds every stream, each ended."""

    def __init__(self, url: str, clients: Sequence[Client], *, model: str, tokens: int) -> None:
        self._url = url
        self._clients = clients
        self._body = {
            "model": model,
            "prompt": "Tell me everything.",
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self._tokens = tokens
        self._stopping = False
        self.outcomes: list[Outcome] = []
        self.open = 0
        """Streams of which a token has come and that have not ended."""

    async def all_open(self, limit_s: float = 60.0) -> None:
        """Until as many streams are open as there are."""
        wanted, end_s = sum(client.streams for client in self._clients), time.monotonic() + limit_s
        while self.open < wanted * 0.9:
            assert time.monotonic() < end_s, f"{self.open} of {wanted} streams are open; {self.failures()[:3]}"
            await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        async with contextlib.AsyncExitStack() as stack:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=self._url, timeout=120, limits=limits))
            group = await stack.enter_async_context(asyncio.TaskGroup())
            tasks = [
                group.create_task(self._stream_on(http, client))
                for client in self._clients
                for _ in range(client.streams)
            ]
            yield self
            self._stopping = True
            await asyncio.gather(*tasks)

    async def _stream_on(self, http: httpx.AsyncClient, client: Client) -> None:
        while not self._stopping:
            outcome = Outcome(client=client, began_s=time.monotonic())
            self.outcomes.append(outcome)
            try:
                await self._stream(http, outcome)
            except httpx.HTTPError as error:
                outcome.problem = repr(error)
            if outcome.status != 200:
                # Refused or not connected: a client comes again, not at once.
                await asyncio.sleep(0.2)

    async def _stream(self, http: httpx.AsyncClient, outcome: Outcome) -> None:
        client, text, opened = outcome.client, "", False
        headers = {"authorization": f"Bearer {client.key}"}
        try:
            async with http.stream("POST", "/v1/completions", json=self._body, headers=headers) as reply:
                outcome.status = reply.status_code
                if reply.status_code != 200:
                    outcome.problem = (await reply.aread()).decode(errors="replace")
                    return
                async for chunk in reply.aiter_text():
                    text += chunk
                    if not opened:
                        opened = True
                        self.open += 1
                    self._judge(outcome, chunk)
        finally:
            self.open -= opened
        outcome.problem = self._wrong(text, outcome)

    def _judge(self, outcome: Outcome, chunk: str) -> None:
        """Each event with text is a token."""
        client, now_s = outcome.client, time.monotonic() - outcome.began_s
        for _ in range(chunk.count('"text":"') + chunk.count('"text": "')):
            outcome.tokens += 1
            deadline_s = client.first_token_s + (outcome.tokens - 1) * client.output_token_s
            outcome.late_tokens += now_s > deadline_s

    def _wrong(self, text: str, outcome: Outcome) -> str:
        if not text.rstrip().endswith("data: [DONE]"):
            return f"the stream ended without [DONE]: {text[-200:]!r}"
        data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
        parts = [json.loads(each) for each in data]
        if errors := [part["error"] for part in parts if "error" in part]:
            return f"error: {errors[0]}"
        reasons = [choice["finish_reason"] for part in parts for choice in part["choices"] if choice["finish_reason"]]
        tokens = parts[-1]["usage"]["completion_tokens"]
        if reasons != ["length"] or tokens != self._tokens:
            return f"{tokens} of {self._tokens} tokens, finish reasons {reasons}"
        return ""

    def failures(self) -> list[str]:
        """What went wrong with streams that had been accepted."""
        return [each.problem for each in self.outcomes if each.status == 200 and each.problem]

    def refused(self) -> list[str]:
        """Requests that were not accepted."""
        return [f"{each.status} {each.problem}" for each in self.outcomes if each.status != 200]

    def attainment(self, name: str) -> float:
        """Share of a client's requests that were on time throughout."""
        own = [each for each in self.outcomes if each.client.name == name]
        return sum(each.attained for each in own) / len(own)
