"""Replies of the emulated engine, byte for byte in the shapes vLLM sends.

A stream has one event per step and request; events of tokens that piled up behind a slow client are one event, as in
vLLM. Each event's constant parts are rendered once per request.
"""

import time

import msgspec

from proserve_engine.emulator.jobs import Job, JobError
from proserve_engine.emulator.token_ids import WORDS, ids_of, word_at, word_id

DONE = b"data: [DONE]\n\n"


def words(job: Job, first: int, count: int) -> str:
    """Text of the output tokens `first` .. `first + count - 1` (0-based)."""
    return "".join(WORDS[word] for word in _said(job, first, count))


def _said(job: Job, first: int, count: int) -> list[int]:
    return [word_at(job.seed, job.said + token) for token in range(first, first + count)]


def error_body(error: JobError) -> bytes:
    """An OpenAI-shaped error."""
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.status}}
    )


def models_body(model: str, max_model_length: int) -> bytes:
    """`GET /v1/models`."""
    card = {
        "id": model, "object": "model", "created": int(time.time()), "owned_by": "proserve-emulator", "root": model,
        "parent": None, "max_model_len": max_model_length,
    }  # fmt: skip
    return msgspec.json.encode({"object": "list", "data": [card]})


class Rendering:
    """Renders the reply to one job."""

    def __init__(self, job: Job, *, model: str, request_id: str) -> None:
        self._job = job
        self._envelope = {
            "id": request_id,
            "object": _object(job),
            "created": int(time.time()),
            "model": model,
        }
        self._head = b"data: " + msgspec.json.encode(self._envelope)[:-1] + b',"choices":'

    def opening(self) -> bytes:
        """The event with the assistant's role that opens a chat stream; nothing for completions."""
        if not self._job.chat:
            return b""
        choice = b'[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        if self._job.return_token_ids:
            choice += b',"prompt_token_ids":' + self._prompt_ids()
        return self._event(choice, emitted=0)

    def tokens(self, first: int, count: int) -> bytes:
        """Event of `count` output tokens from `first` (0-based) on; the last one carries the finish reason."""
        job = self._job
        # The words are plain ASCII: no escaping needed.
        text = words(job, first, count)
        emitted = first + count
        finish = f'"{job.finish_reason}"' if emitted == job.output_tokens else "null"
        part = f'"delta":{{"content":"{text}"}}' if job.chat else f'"text":"{text}"'
        ids = b""
        if job.return_token_ids:
            ids = b',"token_ids":' + msgspec.json.encode([word_id(word) for word in _said(job, first, count)])
            if first == 0 and not job.chat:
                ids += b',"prompt_token_ids":' + self._prompt_ids()
        return self._event(
            f'[{{"index":0,{part},"logprobs":null,"finish_reason":{finish}'.encode() + ids + b"}]",
            emitted=emitted,
        )

    def closing(self) -> bytes:
        """What follows the last token: usage if asked for, and the end mark."""
        if not self._job.include_usage:
            return DONE
        return self._head + b'[],"usage":' + self._usage(self._job.output_tokens) + b"}\n\n" + DONE

    def whole(self) -> bytes:
        """The reply to a request that does not stream."""
        job = self._job
        text = words(job, 0, job.output_tokens)
        choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": job.finish_reason}
        if job.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        if job.return_token_ids:
            choice["token_ids"] = [word_id(word) for word in _said(job, 0, job.output_tokens)]
            choice["prompt_token_ids"] = msgspec.Raw(self._prompt_ids())
        usage = msgspec.Raw(self._usage(job.output_tokens))
        return msgspec.json.encode({**self._envelope, "choices": [choice], "usage": usage})

    def _prompt_ids(self) -> bytes:
        job = self._job
        said = [word_id(word_at(job.seed, token)) for token in range(job.said)]
        return msgspec.json.encode(ids_of(job.prompt) + said)

    def _event(self, choices: bytes, *, emitted: int) -> bytes:
        if self._job.continuous_usage:
            return self._head + choices + b',"usage":' + self._usage(emitted) + b"}\n\n"
        return self._head + choices + b"}\n\n"

    def _usage(self, emitted: int) -> bytes:
        prompt = self._job.prompt_tokens
        total = prompt + emitted
        return f'{{"prompt_tokens":{prompt},"total_tokens":{total},"completion_tokens":{emitted}}}'.encode()


def _object(job: Job) -> str:
    if not job.chat:
        return "text_completion"
    return "chat.completion.chunk" if job.stream else "chat.completion"
