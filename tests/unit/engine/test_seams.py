"""The check that vLLM is what the plug-in was made for. Stand-ins for vLLM's classes; the real ones: tests/engine."""

from types import SimpleNamespace
from typing import Any

import pytest

from proserve_engine.vllm import seams
from proserve_engine.vllm.seams import SeamError, check_classes, check_scheduler, check_version


@pytest.mark.parametrize("version", ["0.28.0", "0.30.1", "0.32.0+cpu", "0.31.0rc1"])
def test_tested_versions_pass(version: str) -> None:
    check_version(version, {})


@pytest.mark.parametrize("version", ["0.27.1", "0.33.0", "1.0", "unknown"])
def test_untested_version_stops_unless_the_user_insists(version: str) -> None:
    with pytest.raises(SeamError, match=r"0\.28 to 0\.32.*PROSERVE_ALLOW_UNTESTED_VLLM"):
        check_version(version, {})
    check_version(version, {"PROSERVE_ALLOW_UNTESTED_VLLM": "1"})


def scheduler_class(without: str | None = None) -> type:
    def make(parameters: tuple[str, ...]) -> Any:
        namespace: dict[str, Any] = {}
        exec(f"def method(self, {', '.join(parameters)}): ...", namespace)
        return namespace["method"]

    methods = {n: make(p) for n, p in seams.SCHEDULER_METHODS.items() if n != without}
    return type("Scheduler", (), methods)


def request_class(without: str | None = None) -> type:
    namespace: dict[str, Any] = {}
    assignments = "; ".join(f"self.{name} = None" for name in seams.REQUEST_ATTRIBUTES if name != without)
    exec(f"def constructor(self): {assignments}", namespace)
    return type("Request", (), {"__init__": namespace["constructor"]})


def test_complete_classes_pass() -> None:
    check_classes(scheduler_class(), request_class(), "0.32.0")


@pytest.mark.parametrize("name", list(seams.SCHEDULER_METHODS))
def test_missing_method_is_named(name: str) -> None:
    with pytest.raises(SeamError, match=rf"Scheduler\.{name}\b"):
        check_classes(scheduler_class(without=name), request_class(), "0.32.0")


def test_missing_parameter_is_named() -> None:
    def preempt(self: object, request: object, timestamp: float) -> None: ...

    changed = type("Scheduler", (scheduler_class(),), {"_preempt_request": preempt})
    with pytest.raises(SeamError, match=r"Scheduler\._preempt_request\(drop_stale_output\)"):
        check_classes(changed, request_class(), "0.32.0")


@pytest.mark.parametrize("name", seams.REQUEST_ATTRIBUTES)
def test_missing_request_attribute_is_named(name: str) -> None:
    with pytest.raises(SeamError, match=rf"Request\.{name}\b"):
        check_classes(scheduler_class(), request_class(without=name), "0.32.0")


def scheduler(without: str | None = None, queue: str = "kv_holding_waiting") -> SimpleNamespace:
    root = SimpleNamespace(**{queue: []})
    for path in seams.SCHEDULER_ATTRIBUTES:
        if path == without:
            continue
        *parents, leaf = path.split(".")
        holder = root
        for parent in parents:
            if not hasattr(holder, parent):
                setattr(holder, parent, SimpleNamespace())
            holder = getattr(holder, parent)
        setattr(holder, leaf, [])
    return root


@pytest.mark.parametrize("queue", seams.WAITING_QUEUES)
def test_both_generations_of_queues_pass(queue: str) -> None:
    check_scheduler(scheduler(queue=queue), "0.32.0")


@pytest.mark.parametrize("path", seams.SCHEDULER_ATTRIBUTES)
def test_missing_attribute_is_named(path: str) -> None:
    with pytest.raises(SeamError, match=path.replace(".", r"\.")):
        check_scheduler(scheduler(without=path), "0.32.0")


def test_a_policy_of_vllm_beside_ours_is_refused() -> None:
    instance = scheduler()
    instance.policy = SimpleNamespace(value="priority")
    with pytest.raises(SeamError, match="scheduling-policy priority"):
        check_scheduler(instance, "0.32.0")
