"""What `proserve bench kv` and `kv-reload` measure, and how it is told."""

import statistics
from collections.abc import Sequence

import msgspec

TARGET_STEP_RATIO = 1.03
"""Step with copies ahead over step without."""
TARGET_EXCESS = 0.10
"""Of a step with a pipelined reload, beyond the longer one of copies and compute."""


class Resumed(msgspec.Struct, frozen=True, kw_only=True):
    """Bringing back a request of so many tokens: from its preemption to its next token, medians."""

    context: int
    runs: int
    resume_s: float
    """With its blocks from the host."""
    recompute_s: float
    copied_out_s: float
    """Copy to the host, of that request's blocks."""
    copied_back_s: float
    waited_s: float
    """Time for which the step waited for the copy back."""
    restored_blocks: int
    wrong_resumed: int
    """Outputs that differ from the uninterrupted run's."""
    wrong_recomputed: int


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """Copies of so many blocks, lying anywhere, next to one piece of memory of the same size. Bytes per second."""

    blocks: int
    size: int
    to_host: float
    to_host_raw: float
    to_device: float
    to_device_raw: float


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """Steps of running requests, every second one with copies to the host behind it."""

    pairs: int
    requests: int
    copied_blocks: int
    """Per step with copies."""
    plain_s: float
    copying_s: float
    ratio: float
    """Median over pairs of neighbours."""


class Shuffled(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that lose their blocks and come back at random, several in a step, some of their blocks copied ahead."""

    requests: int
    restores: int
    wrong: int
    """Outputs that differ from the uninterrupted run's."""


class KvFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The whole result."""

    device: str
    model: str
    vllm: str
    block_size: int
    block_bytes: int
    resumed: tuple[Resumed, ...]
    copied: tuple[Copied, ...]
    steps: Steps
    shuffled: Shuffled
    control_differs: bool
    """Whether blocks that came back empty changed an output: if not, equal outputs say nothing."""

    @property
    def faults(self) -> list[str]:
        """Why the copies are not to be trusted; none if they are."""
        faults = [
            f"{wrong} of {runs} outputs differ from the uninterrupted run's after {what}"
            for row in self.resumed
            for wrong, runs, what in (
                (row.wrong_resumed, row.runs, f"{row.context} tokens came back"),
                (row.wrong_recomputed, row.runs, f"{row.context} tokens were computed again"),
            )
            if wrong
        ]
        if self.shuffled.wrong:
            faults.append(f"{self.shuffled.wrong} of {self.shuffled.requests} outputs differ after random preemptions")
        if not self.control_differs:
            faults.append(
                "blocks that came back empty changed no output: this model can't tell whether copies are right"
            )
        if not self.shuffled.restores or not all(row.restored_blocks for row in self.resumed):
            faults.append("requests came back without blocks from the host")
        return faults


def table(figures: KvFigures) -> str:
    """For people."""
    lines = [
        f"{figures.model} on {figures.device}, vLLM {figures.vllm}, {figures.block_size} tokens and "
        f"{figures.block_bytes / 2**20:.3g} MiB per block",
        "",
        "request back, ms    resume  recompute  faster  copy out  copy back  waited  blocks  wrong tokens",
    ]
    lines += [
        f"{row.context:>10,} tokens  {row.resume_s * 1e3:>8.1f}  {row.recompute_s * 1e3:>9.1f}  "
        f"{row.recompute_s / row.resume_s:>5.1f}x  {row.copied_out_s * 1e3:>8.2f}  {row.copied_back_s * 1e3:>9.2f}  "
        f"{row.waited_s * 1e3:>6.2f}  {row.restored_blocks:>6}  {row.wrong_resumed + row.wrong_recomputed} of "
        f"{2 * row.runs} runs"
        for row in figures.resumed
    ]
    lines += ["", "copies, GB/s    to host  link  reached   to device  link  reached"]
    lines += [
        f"{copy.blocks:>6} blocks  {copy.to_host / 1e9:>9.2f} {copy.to_host_raw / 1e9:>5.2f}  "
        f"{copy.to_host / copy.to_host_raw:>6.0%}  {copy.to_device / 1e9:>10.2f} {copy.to_device_raw / 1e9:>5.2f}  "
        f"{copy.to_device / copy.to_device_raw:>6.0%}"
        for copy in figures.copied
    ]
    steps = figures.steps
    met = "met" if steps.ratio <= TARGET_STEP_RATIO else "missed"
    lines += [
        "",
        f"steps of {steps.requests} requests: {steps.plain_s * 1e3:.2f} ms, with {steps.copied_blocks} blocks copied "
        f"ahead {steps.copying_s * 1e3:.2f} ms, ratio {steps.ratio:.3f} ({steps.pairs} pairs), target <= "
        f"{TARGET_STEP_RATIO} ({met})",
    ]
    lines.append(
        f"{figures.shuffled.requests} requests at random, {figures.shuffled.restores} times back with blocks: "
        f"{figures.shuffled.wrong} wrong outputs"
    )
    lines += [f"fault: {fault}" for fault in figures.faults] or ["all outputs as they should be"]
    return "\n".join(lines)


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """Steps in which a request comes back, medians, seconds."""

    layers: int
    blocks: int
    tokens: int
    """Computed in the same step."""
    copies_s: float
    compute_s: float
    """The step with copies that are not slowed down."""
    pipelined_s: float
    blocking_s: float
    waits_s: tuple[float, ...]
    """Of the pipelined step before each layer."""

    @property
    def excess(self) -> float:
        """Share by which the pipelined step is longer than the longer one of copies and compute."""
        return self.pipelined_s / max(self.copies_s, self.compute_s) - 1


def reload_table(rows: Sequence[Reloaded]) -> str:
    """For people."""
    first = rows[0]
    lines = [
        f"{first.layers} layers, {first.blocks} blocks come back in a step that computes {first.tokens} tokens",
        "copies, ms  pipelined  blocking  longer of copies and compute  beyond it  waits before layers, ms",
    ]
    lines += [
        f"{row.copies_s * 1e3:>10.0f}  {row.pipelined_s * 1e3:>9.0f}  {row.blocking_s * 1e3:>8.0f}  "
        f"{max(row.copies_s, row.compute_s) * 1e3:>28.0f}  {row.excess:>9.1%}  "
        f"{row.waits_s[0] * 1e3:.0f}, then {statistics.median(row.waits_s[1:]) * 1e3:.0f} each"
        for row in rows
    ]
    most = max(row.excess for row in rows)
    met = "met" if most <= TARGET_EXCESS else "missed"
    lines.append(f"beyond the longer one at most {most:.1%}, target {TARGET_EXCESS:.0%} ({met})")
    return "\n".join(lines)
