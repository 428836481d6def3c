"""Names the beginning of a prompt, block by block, so that requests with the same beginning can go where it is known.

The blocks are cut from the prompt's JSON as the client sent it, so they cost a hash of bytes and nothing is decoded; a
conversation that goes on begins with the bytes of the one before. What goes into the model in front of the messages
(tools) is part of the first name, and so is the tenant: a request's engine is visible to its client, and blocks that
tenants shared would tell one of them which prompts another has sent.
"""

from proserve_core.routing.prefix_map import BLOCK_TOKENS
from proserve_gateway.requests.body import RequestBody

BLOCK_BYTES = BLOCK_TOKENS * 4
"""Four bytes of English text are about a token."""
MOST_BLOCKS = 64
"""Of a prompt: what comes behind 128 KiB decides little and would take longer to hash than to route."""


def prefix_blocks(body: RequestBody, tenant: str) -> tuple[int, ...]:
    """Hashes of the whole blocks at the beginning of the prompt; each stands for all before it too."""
    fields = body.fields
    prompt = fields.get("messages") or fields.get("prompt")
    if prompt is None:
        return ()
    data = memoryview(prompt)
    count = min(len(data) // BLOCK_BYTES, MOST_BLOCKS)
    if not count:
        return ()
    name = hash((tenant, bytes(tools) if (tools := fields.get("tools")) is not None else b""))
    names = []
    for start in range(0, count * BLOCK_BYTES, BLOCK_BYTES):
        name = hash((name, bytes(data[start : start + BLOCK_BYTES])))
        names.append(name)
    return tuple(names)
