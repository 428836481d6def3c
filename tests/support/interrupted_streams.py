"""Streams that are followed while something happens to their engines, and what they should have said."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import msgspec

from openai_replies import events


class Said(msgspec.Struct, frozen=True):
    """What a client got of one answer."""

    text: str
    finish_reasons: tuple[str, ...]
    completion_tokens: int
    ids: int
    """Different ids of chunks."""
    engine: str
    ended: bool
    """The stream ended with `[DONE]`."""
    error: str = ""


class Question(msgspec.Struct, frozen=True):
    """A greedy request."""

    text: str
    chat: bool
    max_tokens: int
    stop: str = ""

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def body(self, *, stream: bool) -> dict[str, Any]:
        prompt = {"messages": [{"role": "user", "content": self.text}]} if self.chat else {"prompt": self.text}
        options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        if self.stop:
            options["stop"] = [self.stop, "never said"]
        sampling = {"max_tokens": self.max_tokens, "temperature": 0, "ignore_eos": True}
        return {"model": "tiny", **sampling, **prompt, **options}


async def whole_answers(client: httpx.AsyncClient, questions: Sequence[Question]) -> list[str]:
    """Texts of uninterrupted answers."""
    replies = await asyncio.gather(*(client.post(each.path, json=each.body(stream=False)) for each in questions))
    choices = [reply.json()["choices"][0] for reply in replies]
    return [choice["message"]["content"] if "message" in choice else choice["text"] for choice in choices]


def late_stop(text: str) -> str:
    """A piece of an answer that is said as late as possible for the first time."""
    return max((text[at : at + 8] for at in range(len(text) - 8)), key=text.find)


async def interrupted(
    client: httpx.AsyncClient,
    questions: Sequence[Question],
    interrupt: Callable[[list[str]], Awaitable[None]],
    *,
    after_events: int,
) -> list[Said]:
    """Ask all at once; when every stream has had so many events, `interrupt` is called with the engines' names."""
    engines: list[str] = []
    going = asyncio.Semaphore(0)

    async def follow(question: Question) -> Said:
        async with client.stream("POST", question.path, json=question.body(stream=True)) as reply:
            reply.raise_for_status()
            engines.append(reply.headers["x-proserve-engine"])
            text, seen = "", 0
            async for piece in reply.aiter_text():
                # Only the piece: who counts all of it again falls behind the engine.
                before, text, seen = seen, text + piece, seen + piece.count("data: ")
                if before < after_events <= seen:
                    going.release()
            return _read(text, reply.headers["x-proserve-engine"])

    following = [asyncio.ensure_future(follow(question)) for question in questions]
    for _ in following:
        await going.acquire()
    await interrupt(engines)
    return list(await asyncio.gather(*following))


def _read(stream: str, engine: str) -> Said:
    chunks = [chunk for chunk in events(stream) if chunk != "[DONE]"]
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    return Said(
        text="".join(each["delta"].get("content", "") if "delta" in each else each["text"] for each in choices),
        finish_reasons=tuple(each["finish_reason"] for each in choices if each["finish_reason"]),
        completion_tokens=chunks[-1]["usage"]["completion_tokens"],
        ids=len({chunk["id"] for chunk in chunks if "id" in chunk}),
        engine=engine,
        ended=stream.endswith("data: [DONE]\n\n"),
        error=next((str(chunk["error"]) for chunk in chunks if "error" in chunk), ""),
    )
