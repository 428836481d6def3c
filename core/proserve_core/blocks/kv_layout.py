"""How many bytes the KV cache of a model takes, and in how many layers they lie.

A token has one key and one value per layer and KV head. Figures from the models' published configurations.
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec


class KvLayout(msgspec.Struct, frozen=True, kw_only=True):
    """KV cache of one model on one device (a tensor-parallel rank holds its share of the heads)."""

    layers: int
    kv_heads: int
    head_dim: int
    value_bytes: int = 2
    """Bytes per number: 2 for bf16 and fp16, 1 for fp8, 4 for float32."""

    @property
    def token_bytes(self) -> int:
        """Bytes per token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.value_bytes

    def block_bytes(self, block_size: int) -> int:
        """Bytes of one block of `block_size` tokens over all layers."""
        return self.token_bytes * block_size


KV_LAYOUTS: Mapping[str, KvLayout] = MappingProxyType(
    {
        "meta-llama/Llama-3.1-8B": KvLayout(layers=32, kv_heads=8, head_dim=128),
        "Qwen/Qwen2.5-7B": KvLayout(layers=28, kv_heads=4, head_dim=128),
        "Qwen/Qwen2.5-14B": KvLayout(layers=48, kv_heads=8, head_dim=128),
        "generated tiny Qwen2: hidden size 128, 2 layers": KvLayout(layers=2, kv_heads=1, head_dim=64, value_bytes=4),
    }
)
"""By the `model` of a calibration. An engine takes the layout from its own model instead."""
