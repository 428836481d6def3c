"""What a user installs: the locks cover every dependency and name no server, the wheel carries the data files."""

import re
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {
    "image.lock": ("gateway", "operator", "emulator"),
    "dev.lock": ("gateway", "operator", "emulator", "lab", "test", "dev"),
    "engine-cpu.lock": ("gateway", "operator", "emulator", "lab", "test"),
}


def distribution(requirement: str) -> str:
    """Normalised name of the distribution a requirement asks for."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match.group()).lower()


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_pins_every_declared_dependency(lock: str) -> None:
    declared = [*PROJECT["dependencies"]]
    for extra in LOCKS[lock]:
        declared += PROJECT["optional-dependencies"][extra]
    text = (ROOT / "requirements" / lock).read_text()
    pinned = {distribution(line) for line in text.splitlines() if re.match(r"[a-z0-9]", line)}

    missing = {distribution(requirement) for requirement in declared} - pinned - {"proserve"}

    assert not missing, f"run `make lock`: {lock} lacks {sorted(missing)}"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_has_a_hash_for_everything_and_names_no_server(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text)

    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert re.findall(r"\S*://\S*|--(?:extra-)?index-url.*|--find-links.*", text) == []


def test_every_dependency_has_a_lower_and_an_upper_bound() -> None:
    declared = PROJECT["dependencies"] + list(chain.from_iterable(PROJECT["optional-dependencies"].values()))

    open_ended = [r for r in declared if distribution(r) != "proserve" and not ("<" in r and ">=" in r)]

    assert open_ended == []


def test_wheel_carries_all_packages_with_their_data_files(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "*/proserve_*/*"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    sources = {path.split("/", 1)[1] for path in tracked.stdout.splitlines()}

    assert sources - shipped == set()
    for package in (
        "proserve_core",
        "proserve_engine",
        "proserve_gateway",
        "proserve_operator",
        "proserve_lab",
        "proserve_cli",
    ):
        assert f"{package}/py.typed" in shipped
