"""Checks copies of KV blocks on a machine with a GPU: the engine tests that need one, then `proserve bench kv`.

    python3 scripts/gpu_check.py [--model FOLDER] [--context TOKENS ...]

Takes the interpreter of an environment that has vLLM from `PROSERVE_ENGINE_PYTHON`; without it one is made in
.venv-gpu (vLLM from the package index that pip is set up for, 10 GB). The generated model fits any GPU but is much too
small for bandwidths: name the folder of a real one with --model to see those, it is only read. Where vLLM is its CPU
build, the same runs on the CPU. Exit status 1 if any output or any copied block is not what it should be.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-gpu"
ENGINE_PYTHON = "PROSERVE_ENGINE_PYTHON"
EXTRAS = "engine,test"
TESTS = (
    "tests/engine/test_kv_connector.py",
    "tests/engine/test_kv_cuda_copier.py",
    "tests/engine/test_kv_identity.py",
    "tests/engine/test_kv_offload.py",
    "tests/engine/test_kv_scheduling.py",
    "tests/engine/test_kv_sharing.py",
    "tests/engine/test_token_identity.py",
)
TIME_LIMIT_S = 600
"""Of the tests, and of each benchmark."""


def main() -> int:
    """Everything; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="folder of a real model for a second benchmark")
    parser.add_argument("--context", type=int, action="append", help="tokens of a preempted request; may be repeated")
    parser.add_argument("--host-memory", default="8Gi", help="for the real model's blocks")
    options = parser.parse_args()
    python = os.environ.get(ENGINE_PYTHON) or environment()
    if not report_machine(python):
        return 1
    failures = []
    if not run("engine tests", [python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *TESTS]):
        failures.append("engine tests")
    contexts = [f"--context={tokens}" for tokens in options.context or ()]
    models = {"generated://small": "1Gi"} | ({options.model: options.host_memory} if options.model else {})
    for model, memory in models.items():
        command = [python, "-m", "proserve_engine.bench.kv_times", f"--model={model}", f"--host-memory={memory}"]
        if not run(f"copies with {model}", [*command, *contexts]):
            failures.append(f"copies with {model}")
    print(f"failed: {', '.join(failures)}" if failures else "all is as it should be", flush=True)
    return 1 if failures else 0


def environment() -> str:
    """Make an environment with vLLM, this project and what its tests need; its interpreter."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        print(f"making {ENVIRONMENT}; an existing one is named with {ENGINE_PYTHON}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-e", f"{ROOT}[{EXTRAS}]"], check=True)
    return str(python)


def report_machine(python: str) -> bool:
    """Say what is checked on; whether the environment has all that is needed."""
    code = (
        "import hypothesis, pytest, pytest_asyncio, pytest_timeout, torch, vllm\n"
        "from proserve_engine.vllm.seams import installed_version\n"
        "device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'the CPU'\n"
        "print('vLLM', installed_version(), 'on', device)"
    )
    if subprocess.run([python, "-c", code], check=False, cwd=ROOT).returncode == 0:
        return True
    print(f"{python} lacks something: {python} -m pip install -e '{ROOT}[{EXTRAS}]'", flush=True)
    return False


def run(what: str, command: list[str]) -> bool:
    """Run a part of the check; whether it went well."""
    print(f"--- {what}", flush=True)
    variables = {"VLLM_LOGGING_LEVEL": "ERROR", "PROSERVE_REQUIRE_ENGINE": "1", **os.environ}
    try:
        return subprocess.run(command, check=False, cwd=ROOT, env=variables, timeout=TIME_LIMIT_S).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"{what}: not done after {TIME_LIMIT_S} s", flush=True)
        return False


if __name__ == "__main__":
    raise SystemExit(main())
