"""What a client asks for: the request message and the metadata beside it."""

from collections.abc import Sequence

import msgspec

from proserve_gateway.rpc import inference_pb2 as pb

Metadata = tuple[tuple[str, str], ...]


class Message(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


class Objectives(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for beside its tenant's own: a lighter class, later deadlines."""

    priority_class: str | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None


def request(
    *,
    model: str,
    prompt: str | Sequence[Message] | Sequence[int],
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    min_tokens: int | None = None,
    ignore_eos: bool | None = None,
) -> pb.GenerateRequest:
    """`prompt` is a text, a conversation, or tokens of the model's own tokenizer. None: the model's default.

    Raises:
        ValueError: messages and tokens are mixed, or the prompt is empty.
    """
    sampling = pb.Sampling(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop,
        presence_penalty=presence_penalty, frequency_penalty=frequency_penalty, top_k=top_k, min_p=min_p,
        min_tokens=min_tokens, ignore_eos=ignore_eos,
    )  # fmt: skip
    if isinstance(prompt, str):
        return pb.GenerateRequest(model=model, prompt=prompt, sampling=sampling)
    messages = [each for each in prompt if isinstance(each, Message)]
    if not prompt or 0 < len(messages) < len(prompt):
        raise ValueError("prompt: expected a text, a list of Message or a list of token ids, and nothing empty")
    if messages:
        chat = pb.Chat(messages=[pb.ChatMessage(role=each.role, content=each.content) for each in messages])
        return pb.GenerateRequest(model=model, chat=chat, sampling=sampling)
    ids = [each for each in prompt if isinstance(each, int)]
    return pb.GenerateRequest(model=model, token_ids=pb.TokenIds(ids=ids), sampling=sampling)


def metadata(api_key: str | None, objectives: Objectives | None) -> Metadata:
    """Credentials and wishes as gRPC metadata."""
    wanted = objectives or Objectives()
    pairs = {
        "authorization": None if api_key is None else f"Bearer {api_key}",
        "x-proserve-class": wanted.priority_class,
        "x-proserve-ttft-ms": None if wanted.ttft_ms is None else f"{wanted.ttft_ms:g}",
        "x-proserve-tpot-ms": None if wanted.tpot_ms is None else f"{wanted.tpot_ms:g}",
    }
    return tuple((key, value) for key, value in pairs.items() if value is not None)
