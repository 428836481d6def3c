import json
import os
import subprocess
import sys
from pathlib import Path

from environments import ROOT
from worker_groups import TOGETHER, group

CONFTEST = """
import json, os
from worker_groups import GroupScheduling

def pytest_xdist_make_scheduler(config, log):
    return GroupScheduling(config, log)

def pytest_runtest_logreport(report):
    if report.when == "call" and hasattr(report, "worker_id"):
        with open("ran.jsonl", "a") as file:
            print(json.dumps([report.worker_id, report.nodeid]), file=file)
"""
TESTS = """
import time
import pytest

@pytest.mark.parametrize("number", range(6))
def test_it(number):
    time.sleep(0.02)
"""


def test_tests_of_a_folder_with_processes_run_in_one_worker_in_order(tmp_path: Path) -> None:
    files = [tmp_path / "tests" / name for name in ("cluster/test_a.py", "cluster/test_b.py", "unit/test_c.py")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TESTS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    path = f"{ROOT / 'tests/support'}:{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "2", "--import-mode=importlib", "--no-loadscope-reorder"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [json.loads(line) for line in (tmp_path / "ran.jsonl").read_text().splitlines()]
    together = [(worker, nodeid) for worker, nodeid in ran if group(nodeid) == "cluster"]
    assert len({worker for worker, _ in together}) == 1
    wanted = [
        f"tests/{name}::test_it[{number}]" for name in ("cluster/test_a.py", "cluster/test_b.py") for number in range(6)
    ]
    assert [nodeid for _, nodeid in together] == wanted
    # Meanwhile the other worker did the rest.
    assert len({worker for worker, _ in ran}) == 2
    assert len(ran) == 18


def test_only_folders_that_are_there_stay_together() -> None:
    assert [folder for folder in TOGETHER if not (ROOT / "tests" / folder).is_dir()] == []
