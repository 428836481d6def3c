"""A run without its engine tests must not look green."""

from check_engine_tests import problems

RAN = '<testcase classname="tests.engine.test_order" name="test_a"/>'
SKIPPED = '<testcase classname="tests.engine.test_order" name="test_b"><skipped message="no vllm"/></testcase>'
OTHER = '<testcase classname="tests.unit.test_c" name="test_c"><skipped message="by design"/></testcase>'


def junit(*cases: str) -> str:
    return f'<testsuites><testsuite name="pytest">{"".join(cases)}</testsuite></testsuites>'


def test_run_with_its_engine_tests_passes() -> None:
    assert problems(junit(RAN, OTHER)) == []


def test_skipped_engine_test_is_named() -> None:
    assert problems(junit(RAN, SKIPPED)) == ["tests.engine.test_order::test_b was skipped"]


def test_run_without_engine_tests_fails() -> None:
    assert problems(junit(OTHER)) == ["none ran"]
