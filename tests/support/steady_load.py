"""Streams that are always there: where one ends the next begins, so that whatever a test does meets all of them.

By aiohttp, which takes a fraction of httpx's time for a chunk: on two busy cores 120 streams through httpx fell seconds
behind gateways that were on time.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence

import aiohttp
import msgspec

from proserve_core.gain import RequestAccount
from proserve_core.objectives import ServiceTerms

LIMIT_S = 240.0
"""Longest wait for a token: requests of a light class wait long."""


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A group of streams of one tenant."""

    name: str
    key: str
    streams: int
    tokens: Sequence[int]
    """Of the answers, one stream after another: with different lengths they do not all end and begin at once."""
    prompt: str = "Tell me everything."


class Outcome(msgspec.Struct, kw_only=True):
    """What became of one stream."""

    client: Client
    tokens: int
    """Of the whole answer."""
    began_s: float
    status: int = 0
    """Of the reply; 0: none came."""
    problem: str = ""
    """Why a stream that was accepted is not whole; empty if it is."""
    emitted_s: list[float] = []
    """When each token came, on the clock of `began_s`."""

    def attained(self, terms: ServiceTerms) -> bool:
        """Whether first token and pace were what its class promises, and no token came after its deadline."""
        account = RequestAccount(terms, self.began_s)
        account.tokens_over(self.emitted_s)
        return self.status == 200 and not self.problem and account.slo_attained and not account.lost


class Load:
    """Runs while its `async with` block does; afterwards `outcomes` holds every stream, each ended."""

    def __init__(self, url: str, clients: Sequence[Client], *, model: str) -> None:
        self._url = url
        self._clients = clients
        self._body = {
            "model": model,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self._stopping = False
        self.outcomes: list[Outcome] = []

    async def begun(self, streams: int, limit_s: float = 300.0) -> None:
        """Until a token has come of so many."""
        await self.until(lambda: sum(bool(each.emitted_s) for each in self.outcomes) >= streams, limit_s)

    async def until(self, holds: Callable[[], bool], limit_s: float) -> None:
        """Until something holds of the outcomes."""
        end_s = time.monotonic() + limit_s
        while not holds():
            begun = sum(bool(each.emitted_s) for each in self.outcomes)
            assert time.monotonic() < end_s, f"{begun} of {len(self.outcomes)} have begun; {self.failures()[:3]}"
            await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        async with contextlib.AsyncExitStack() as stack:
            session = aiohttp.ClientSession(
                self._url,
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=LIMIT_S, sock_read=LIMIT_S),
            )
            http = await stack.enter_async_context(session)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            tasks = [
                group.create_task(self._stream_on(http, client, client.tokens[number % len(client.tokens)]))
                for client in self._clients
                for number in range(client.streams)
            ]
            yield self
            self._stopping = True
            await asyncio.gather(*tasks)

    async def _stream_on(self, http: aiohttp.ClientSession, client: Client, tokens: int) -> None:
        while not self._stopping:
            outcome = Outcome(client=client, tokens=tokens, began_s=time.monotonic())
            self.outcomes.append(outcome)
            try:
                await self._stream(http, outcome)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                outcome.problem = repr(error)
            if outcome.status != 200:
                # Refused or not connected: a client comes again, not at once.
                await asyncio.sleep(0.2)

    async def _stream(self, http: aiohttp.ClientSession, outcome: Outcome) -> None:
        client, said, rest = outcome.client, b"", b""
        body = {**self._body, "prompt": client.prompt, "max_tokens": outcome.tokens}
        headers = {"authorization": f"Bearer {client.key}"}
        async with http.post("/v1/completions", json=body, headers=headers) as reply:
            outcome.status = reply.status
            if reply.status != 200:
                outcome.problem = await reply.text()
                return
            async for chunk in reply.content.iter_any():
                said += chunk
                # Each event with text is a token.
                events, _, rest = (rest + chunk).rpartition(b"\n\n")
                tokens = events.count(b'"text":"') + events.count(b'"text": "')
                outcome.emitted_s += [time.monotonic()] * tokens
        outcome.problem = self._wrong(said.decode(), outcome)

    def _wrong(self, text: str, outcome: Outcome) -> str:
        if not text.rstrip().endswith("data: [DONE]"):
            return f"the stream ended without [DONE]: {text[-200:]!r}"
        data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
        parts = [json.loads(each) for each in data]
        if errors := [part["error"] for part in parts if "error" in part]:
            return f"error: {errors[0]}"
        reasons = [choice["finish_reason"] for part in parts for choice in part["choices"] if choice["finish_reason"]]
        tokens = parts[-1]["usage"]["completion_tokens"]
        if reasons != ["length"] or tokens != outcome.tokens:
            return f"{tokens} of {outcome.tokens} tokens, finish reasons {reasons}"
        return ""

    def failures(self) -> list[str]:
        """What went wrong with streams that had been accepted."""
        return [each.problem for each in self.outcomes if each.status == 200 and each.problem]

    def refused(self) -> list[str]:
        """Requests that were not accepted."""
        return [f"{each.status} {each.problem}" for each in self.outcomes if each.status != 200]

    def of(self, name: str) -> list[Outcome]:
        """Streams of a client."""
        return [each for each in self.outcomes if each.client.name == name]

    def attainment(self, name: str, terms: ServiceTerms) -> float:
        """Share of a client's requests that got what their class promises."""
        own = self.of(name)
        return sum(each.attained(terms) for each in own) / len(own)

    def waiting(self, name: str) -> float:
        """Share of the time of a client's streams that they waited for their first token."""
        own = [each for each in self.of(name) if each.emitted_s]
        took_s = sum(each.emitted_s[-1] - each.began_s for each in own)
        return sum(each.emitted_s[0] - each.began_s for each in own) / took_s
