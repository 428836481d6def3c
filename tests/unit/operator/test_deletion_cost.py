"""What a pool that gets smaller tells Kubernetes about its pods."""

import asyncio
from collections.abc import Mapping

import pytest

from reconcile_bench import ReconcileBench


async def bench_of(stakes: dict[str, float]) -> ReconcileBench:
    """A pool whose requests are worth this at each of its pods."""
    bench = ReconcileBench(replicas=len(stakes))
    await bench.look()
    for name in stakes:
        bench.kube.put({"kind": "Pod", "metadata": {"name": name, "namespace": "default"}})
    bench.report(requests=0, lost=0, stakes=stakes)
    return bench


def numbered(engines: int) -> dict[str, float]:
    return {f"e{number}": float(number) for number in range(engines)}


def costs(bench: ReconcileBench, *names: str) -> list[int]:
    """As Kubernetes reads them."""
    annotations = [bench.kube.objects["Pod", "default", name]["metadata"].get("annotations", {}) for name in names]
    return [int(each.get("controller.kubernetes.io/pod-deletion-cost", "0")) for each in annotations]


async def test_engine_whose_loss_costs_least_goes_first() -> None:
    bench = await bench_of({"a": 40.0, "b": 0.0, "c": 7.0})
    bench.edit(replicas=2)
    requests = await bench.quiet_look()
    assert requests.index("apply Deployment engine-tiny") > requests.index("annotate Pod b")
    found = costs(bench, "b", "c", "a")
    assert found == sorted(set(found))


async def test_dearest_engines_of_a_large_pool_stay_though_they_have_no_price() -> None:
    bench = await bench_of(numbered(120))
    bench.edit(replicas=90)
    await bench.quiet_look()
    found = costs(bench, *numbered(120))
    assert found == sorted(found)
    assert found[90] < found[119]


@pytest.mark.looptime
@pytest.mark.parametrize("engines", [20, 120])
async def test_slow_api_server_delays_no_scale_down_and_costs_no_dear_engine(engines: int) -> None:
    bench = await bench_of(numbered(engines))
    bench.edit(replicas=engines - 1)
    annotate, loop = bench.kube.annotate, asyncio.get_running_loop()

    async def slow(kind: str, namespace: str, name: str, annotations: Mapping[str, str]) -> None:
        await asyncio.sleep(4)
        await annotate(kind, namespace, name, annotations)

    bench.kube.annotate = slow  # type: ignore[method-assign]
    began_s = loop.time()
    await bench.look()
    assert loop.time() - began_s <= 10
    assert bench.deployment["spec"]["replicas"] == engines - 1
    found = costs(bench, *numbered(engines))
    assert found == sorted(found)
    assert found[0] < found[-1]
