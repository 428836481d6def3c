"""`proserve bench fidelity` runs; how close the figures are is for the command to say, on a quiet machine."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e


def fidelity(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proserve_cli", "bench", "fidelity", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_emulated_engine_and_simulator_are_compared_by_class() -> None:
    done = fidelity("--policies", "fcfs,slide-batching", "--load", "0.3", "--seconds", "3", "--runs", "2", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [each["policy"] for each in result["policies"]] == ["fcfs", "slide-batching"]
    assert result["requests"] > 10
    for each in result["policies"]:
        assert set(each["gain"]) == {"high", "low", "total"}
        for gain in each["gain"].values():
            assert len(gain["measured"]) == len(gain["simulated"]) == 2
            assert gain["target_points"] == 1
            # An engine that is hardly loaded delivers everything; how much where other programs are in its way, nobody
            # knows.
            assert min(gain["simulated"]) == pytest.approx(1.0, abs=0.01)
            assert all(0 < each <= 1 for each in gain["measured"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policies", "none-such"), "none-such"),
        (("--calibration", "none-such"), "known: a100"),
        (("--trace", "none-such"), "no such file"),
        (("--load", "0"), "--load: expected a number above 0"),
    ],
)
def test_what_cannot_be_compared_is_named(arguments: tuple[str, str], message: str) -> None:
    done = fidelity(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
