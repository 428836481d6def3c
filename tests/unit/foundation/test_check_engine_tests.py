"""A run without its tests on real programs must not look green."""

from check_engine_tests import problems

RAN = '<testcase classname="tests.engine.test_order" name="test_a"/>'
API_RAN = '<testcase classname="tests.apiserver.test_crds" name="test_d"/>'
CLUSTER_RAN = '<testcase classname="tests.cluster.test_first_hour" name="test_e"/>'
SKIPPED = '<testcase classname="tests.engine.test_order" name="test_b"><skipped message="no vllm"/></testcase>'
OTHER = '<testcase classname="tests.unit.test_c" name="test_c"><skipped message="by design"/></testcase>'


def junit(*cases: str) -> str:
    return f'<testsuites><testsuite name="pytest">{"".join(cases)}</testsuite></testsuites>'


def test_run_with_tests_of_all_real_programs_passes() -> None:
    assert problems(junit(RAN, API_RAN, CLUSTER_RAN, OTHER)) == []


def test_skipped_engine_test_is_named() -> None:
    assert problems(junit(RAN, SKIPPED, API_RAN, CLUSTER_RAN)) == ["tests.engine.test_order::test_b was skipped"]


def test_run_without_tests_of_one_kind_fails() -> None:
    assert problems(junit(OTHER)) == [
        "none of tests.engine ran",
        "none of tests.apiserver ran",
        "none of tests.cluster ran",
    ]
    assert problems(junit(RAN, CLUSTER_RAN)) == ["none of tests.apiserver ran"]
