"""Five times what emulated engines can do, through a real gateway. How close the heavy class comes to its target is for
`proserve bench overload`, since it depends on what else the machine does; on any machine nobody is lost, and the heavy
class fares better than the light one."""

from pathlib import Path

import pytest

from proserve_cli.overload_run import CLASSES, GROWTH_TARGET_MB, run
from proserve_lab.shipped_traces import shipped_trace
from proserve_lab.trace import read_trace

pytestmark = pytest.mark.e2e


async def test_five_times_the_load_loses_nobody_and_serves_every_class(tmp_path: Path) -> None:
    rows = read_trace(shipped_trace("azure-conv-2023"), limit=1000)
    result = await run(rows=rows, overload=5.0, seconds=4.0, seed=0, folder=tmp_path)
    assert sum(each.requests for each in result.classes.values()) > 30
    for name in CLASSES:
        assert result.classes[name].lost == 0, name
        assert result.classes[name].answered > 0, name
    # Within one run, what else the machine does is the same for both.
    heavy, light = result.classes["heavy"], result.classes["light"]
    assert heavy.ttft_p50_s is not None
    assert light.ttft_p50_s is not None
    assert heavy.ttft_p50_s < light.ttft_p50_s
    assert heavy.slo_attainment > light.slo_attainment
    assert heavy.refused / heavy.requests <= light.refused / light.requests
    assert result.memory_peak_mb - result.memory_begin_mb < GROWTH_TARGET_MB
