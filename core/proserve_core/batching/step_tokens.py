"""The one option of policies that bound a step by tokens instead of time (Sarathi-Serve calls it chunk size)."""

import msgspec


class StepTokensOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of such a policy."""

    step_tokens: int = 512
    """New tokens in a step, decodes included. Smaller steps give smoother decodes and less throughput."""

    def __post_init__(self) -> None:
        if self.step_tokens < 1:
            raise ValueError(f"step_tokens must be at least 1, got {self.step_tokens}")
