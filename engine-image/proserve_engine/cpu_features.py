"""What the processor can do that decides how an engine on it should compute."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""x86 (AVX-512, AMX) and Arm."""


def has_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether there are instructions for bfloat16. True where the system does not say: vLLM's own choice stays then."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return True
    flags = {
        flag
        for line in text.splitlines()
        if line.partition(":")[0].strip() in ("flags", "Features")
        for flag in line.partition(":")[2].split()
    }
    return not flags or not BF16_FLAGS.isdisjoint(flags)
