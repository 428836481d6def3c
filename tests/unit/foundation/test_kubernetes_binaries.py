"""The cache of Kubernetes programs is complete or absent, whatever happened to it. The build itself is not run here."""

import os
import re
from pathlib import Path

import pytest

import kubernetes_binaries
from environments import EnvironmentSetupError
from kubernetes_binaries import COMPLETE, KUBERNETES, NETWORK_POLICIES, BinariesUnavailableError, ensure_binaries


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A cache of the test's own, and a compiler that makes programs which only say their name. Its calls."""
    monkeypatch.setenv("PROSERVE_CACHE", str(tmp_path))
    calls: list[list[str]] = []

    def compile_programs(command: list[str | Path], **_: str) -> None:
        calls.append([str(part) for part in command])
        folder = Path(calls[-1][calls[-1].index("-o") + 1])
        for program in [*KUBERNETES.programs, *NETWORK_POLICIES.programs, "server", "pause"]:
            (folder / program).write_text(f"#!/bin/sh\necho {program}\n")
            (folder / program).chmod(0o755)

    monkeypatch.setattr(kubernetes_binaries, "run", compile_programs)
    monkeypatch.setattr(kubernetes_binaries, "go_program", lambda: Path("go"))
    return calls


def test_programs_are_built_once(builds: list[list[str]]) -> None:
    folder = ensure_binaries(KUBERNETES)
    assert ensure_binaries(KUBERNETES) == folder
    assert len(builds) == 1
    assert all(os.access(folder / program, os.X_OK) for program in KUBERNETES.programs)


def test_broken_program_is_built_anew(builds: list[list[str]]) -> None:
    program = ensure_binaries(KUBERNETES) / "kubelet"
    program.write_text("#!/bin/sh\nexit 1\n")
    ensure_binaries(KUBERNETES)
    assert len(builds) == 2
    assert "kubelet" in program.read_text()


def test_interrupted_build_is_not_taken_for_a_finished_one(builds: list[list[str]]) -> None:
    folder = KUBERNETES.folder
    folder.mkdir()
    leftover = folder.parent / f"{folder.name}.building-abc"
    leftover.mkdir()
    ensure_binaries(KUBERNETES)
    assert (folder / COMPLETE).exists()
    assert not leftover.exists()


def test_folder_that_was_not_used_for_a_month_makes_room(builds: list[list[str]], tmp_path: Path) -> None:
    old = tmp_path / "kubernetes-1.0.0-abc"
    old.mkdir()
    (old / COMPLETE).touch()
    os.utime(old / COMPLETE, (0, 0))
    ensure_binaries(KUBERNETES)
    assert not old.exists()


def test_failed_build_leaves_nothing(builds: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise EnvironmentSetupError("failed with status 1: go build")

    monkeypatch.setattr(kubernetes_binaries, "run", fail)
    with pytest.raises(BinariesUnavailableError, match="did not build"):
        ensure_binaries(KUBERNETES)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_versions_are_linked_into_the_programs(builds: list[list[str]]) -> None:
    ensure_binaries(KUBERNETES)
    version = kubernetes_binaries.module_version("k8s.io/kubernetes")
    assert f"-X k8s.io/component-base/version.gitVersion={version}" in " ".join(builds[0])
    assert version.removeprefix("v") in KUBERNETES.folder.name


def test_agent_has_a_folder_of_its_own(builds: list[list[str]]) -> None:
    kubernetes, agent = ensure_binaries(KUBERNETES), ensure_binaries(NETWORK_POLICIES)
    assert agent.name.startswith("network-policies-")
    assert os.access(agent / "network-policies", os.X_OK)
    assert ensure_binaries(KUBERNETES) == kubernetes
    assert len(builds) == 2


def test_agent_shares_what_is_compiled_for_kubernetes() -> None:
    def versions(source: Path) -> set[str]:
        return set(re.findall(r"^\s*(?:require )?([\w./-]+ v\S+)", (source / "go.mod").read_text(), re.MULTILINE))

    own = versions(NETWORK_POLICIES.source) - versions(KUBERNETES.source)
    assert {each.split()[0] for each in own} == {
        "github.com/cloudnativelabs/kube-router/v2",
        "github.com/coreos/go-iptables",
        "github.com/hashicorp/go-version",
    }
