"""KV caches of the forms that vLLM hands to connectors. Run by the engine environment's interpreter only."""

from typing import Any

import torch

HEADS = 2
TOKENS = 4
CONTENT = 16
"""Keys and values of a token in a head."""

ORDERS = {
    "heads before tokens": (0, 1, 2, 3, 4),
    "tokens before heads": (0, 1, 3, 2, 4),
    "heads outside": (0, 2, 1, 3, 4),
    "layers of a block side by side": (1, 0, 2, 3, 4),
    "the same, tokens before heads": (1, 0, 3, 2, 4),
    "layers side by side in each head": (1, 2, 0, 3, 4),
}
"""Of layers, blocks, heads, tokens and content: the order in memory, outermost first."""
LAYOUTS = (*ORDERS, "keys and values apart", "smaller blocks of the kernel's own")


def kv_caches(layout: str, blocks: int, layers: int) -> dict[str, Any]:
    """A tensor per layer, empty."""
    if layout == "keys and values apart":
        shape = (2, blocks, TOKENS, HEADS, CONTENT // 2)
        return {f"layer.{number}": torch.zeros(shape) for number in range(layers)}
    if layout == "smaller blocks of the kernel's own":
        smaller = (2 * blocks, HEADS, TOKENS // 2, CONTENT)
        return {f"layer.{number}": torch.zeros(smaller) for number in range(layers)}
    order = ORDERS[layout]
    sizes = (layers, blocks, HEADS, TOKENS, CONTENT)
    memory = torch.zeros([sizes[dimension] for dimension in order])
    views = memory.permute([order.index(dimension) for dimension in range(len(order))])
    return {f"layer.{number}": views[number] for number in range(layers)}
