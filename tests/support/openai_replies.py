"""Reading what the gateway answers over HTTP, with the key of a tenant that may ask."""

import json
from typing import Any

from gateway_builders import GOLD_KEY

AUTH = {"authorization": f"Bearer {GOLD_KEY}"}


def events(text: str) -> list[Any]:
    """Decoded events of a stream, `[DONE]` as it is."""
    data = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def text_of(chunks: list[Any]) -> str:
    return "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c != "[DONE]" and c.get("choices"))
