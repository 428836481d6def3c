"""Which requests can be continued on another engine, and the request that asks for the rest.

The rest is asked for as a completion whose prompt is the ids of the original prompt and of all tokens so far: the same
computation as if nothing had happened, so greedy output is the same token by token (measured against vLLM at every cut
of 480 tokens, incomplete UTF-8 included; chat messages with `continue_final_message` would be tokenized anew). What
the engine knows beside the tokens is lost: the state of a grammar or a parser, penalties' counts, a random generator.
So the fields that a request may have are listed here; one that is not known makes it impossible.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from proserve_gateway.relay.token_trail import TokenTrail
from proserve_gateway.requests.body import BodyKind, RequestBody

SAME_FOR_THE_REST = frozenset({
    "allowed_token_ids", "ignore_eos", "logit_bias", "min_p", "model", "repetition_penalty", "seed",
    "skip_special_tokens", "spaces_between_special_tokens", "stop_token_ids", "temperature", "top_k", "top_p", "user",
    "vllm_xargs",
})  # fmt: skip
DONE_WITH = frozenset({
    "add_generation_prompt", "add_special_tokens", "chat_template", "chat_template_kwargs", "messages", "prompt",
    "truncate_prompt_tokens",
})  # fmt: skip
"""Decide the prompt's ids, which are known by then."""
SEEN_TO = frozenset({
    "ec_transfer_params", "kv_transfer_params", "max_completion_tokens", "max_tokens", "n", "priority", "request_id",
    "stop", "stream", "stream_options",
})  # fmt: skip
"""Have a part of their own here or never reach an engine."""
_KNOWN = SAME_FOR_THE_REST | DONE_WITH | SEEN_TO
_SAYS_NOTHING = frozenset({b"null", b"false", b"[]", b"{}", b'""', b'"none"', b'{"type":"text"}'})
"""Values with which an unknown field is as good as absent."""
_ZERO_SAYS_NOTHING = frozenset({"frequency_penalty", "min_tokens", "presence_penalty", "top_logprobs"})
COMPLETION_TOKENS = 16
"""What a completion without `max_tokens` gets, at OpenAI and in vLLM; a chat gets all there is room for."""

_stops = msgspec.json.Decoder(str | list[str] | None)
_number = msgspec.json.Decoder(float | None)


class _Part(msgspec.Struct):
    type: str = ""


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


_messages = msgspec.json.Decoder(list[_Message])


def obstacle(body: RequestBody) -> str | None:
    """The field of a request that makes continuing impossible; None: it can be continued."""
    if not body.stream or body.choices != 1:
        return "n" if body.stream else "stream"
    fields = body.fields
    for name in sorted(fields.keys() - _KNOWN):
        value = bytes(fields[name]).replace(b" ", b"")
        if value not in _SAYS_NOTHING and not (name in _ZERO_SAYS_NOTHING and value in (b"0", b"0.0")):
            return name
    if "seed" in fields and bytes(fields["seed"]) != b"null" and not _greedy(fields):
        # The engine draws from a generator of the request's own: the rest would repeat the draws of the beginning.
        return "seed"
    return None


def only_text(body: RequestBody) -> bool:
    """Whether the prompt is all in its token ids: pictures and sounds are not."""
    if body.kind is not BodyKind.CHAT:
        return "prompt" in body.fields
    try:
        messages = _messages.decode(body.fields["messages"])
    except msgspec.ValidationError:
        return False
    return all(
        part.type == "text" for message in messages if isinstance(message.content, list) for part in message.content
    )


def stop_strings(body: RequestBody) -> Sequence[str]:
    """Stop strings of the request; none where the field is not as it should be, which engines refuse."""
    raw = body.fields.get("stop")
    try:
        stops = _stops.decode(raw) if raw is not None else None
    except msgspec.ValidationError:
        return ()
    return [stops] if isinstance(stops, str) else stops or ()


def tokens_left(body: RequestBody, sent: int) -> int | None:
    """Tokens that the rest may have; None: as many as there is room for."""
    limit = body.max_tokens
    if limit is None and body.kind is BodyKind.COMPLETION and "max_tokens" not in body.fields:
        limit = COMPLETION_TOKENS
    return None if limit is None else max(0, limit - sent)


def rest_of(body: RequestBody, trail: TokenTrail) -> RequestBody:
    """The request for the tokens after those in `trail`. Stop strings are left out: see `stop_strings`."""
    fields = {name: raw for name, raw in body.fields.items() if name in SAME_FOR_THE_REST}
    left = tokens_left(body, trail.output_tokens)
    fields["prompt"] = Raw(trail.context())
    fields["max_tokens"] = Raw(b"null" if left is None else b"%d" % left)
    fields["stream"] = Raw(b"true")
    return RequestBody(BodyKind.COMPLETION, fields)


def _greedy(fields: dict[str, Raw]) -> bool:
    raw = fields.get("temperature")
    try:
        return raw is not None and _number.decode(raw) == 0
    except msgspec.ValidationError:
        return False
