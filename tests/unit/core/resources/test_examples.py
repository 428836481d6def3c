"""Every file in examples/ is a set of resources that can be served."""

from pathlib import Path

import pytest

from proserve_core.resources import parse_resources, unenforced

NOT_OURS = {"kubernetes-hpa.yaml"}
"""Objects that Kubernetes knows by itself; tests/cluster applies them."""
EXAMPLES = sorted(path for path in (Path(__file__).parents[4] / "examples").glob("*.yaml") if path.name not in NOT_OURS)
IN_A_CLUSTER = [path for path in EXAMPLES if path.name.startswith("kubernetes")]
"""Need not be whole, and may say what only a cluster acts upon."""


@pytest.mark.parametrize("example", IN_A_CLUSTER, ids=lambda path: path.name)
def test_example_for_a_cluster_is_accepted(example: Path) -> None:
    parse_resources({example.name: example.read_text()}, require_pools=True)


@pytest.mark.parametrize("example", [path for path in EXAMPLES if path not in IN_A_CLUSTER], ids=lambda path: path.name)
def test_example_is_accepted_and_all_of_it_has_an_effect(example: Path) -> None:
    resources = parse_resources({example.name: example.read_text()}, require_pools=True, require_tenants=True)
    assert unenforced(resources) == []


def test_quickstart_declares_what_the_demo_needs() -> None:
    text = (EXAMPLES[0].parent / "quickstart.yaml").read_text()
    resources = parse_resources({"quickstart.yaml": text})
    weights = {item.name: item.weight for item in resources.priority_classes}
    assert weights["interactive"] > weights["batch"]
    assert {key for tenant in resources.tenants for key in resources.api_keys(tenant)} == {
        "sk-demo-interactive",
        "sk-demo-batch",
    }
    (pool,) = resources.engine_pools
    assert (pool.model.name, pool.replicas, pool.engine.batching_policy) == ("tiny", 2, "recoverable-gain")
