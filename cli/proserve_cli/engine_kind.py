"""What runs as an engine on this machine."""

import enum


class EngineKind(enum.StrEnum):
    """The `--engine` option."""

    VLLM = "vllm"
    EMULATED = "emulated"
