"""Reading the processor's features."""

from pathlib import Path

import pytest

from proserve_engine.cpu_features import has_bf16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16\n", True),
        ("flags\t\t: fpu avx2\nbugs\t\t: bf16\n", False),
        ("Features\t: fp asimd bf16\n", True),
        ("Features\t: fp asimd\n", False),
        ("model name\t: unknown\n", True),
    ],
)
def test_bfloat16_is_found_in_the_flags_of_x86_and_arm(tmp_path: Path, text: str, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text, encoding="utf-8")
    assert has_bf16(cpuinfo) is expected


def test_a_system_without_cpuinfo_leaves_the_choice_to_vllm(tmp_path: Path) -> None:
    assert has_bf16(tmp_path / "none")
