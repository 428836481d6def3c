"""Documents that differ from a right one in a single field, made from the field descriptions: each bound, each choice,
each wrong type. What reads resources offline and what the API server reads must agree on all of them."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from proserve_core.resources.fields import (
    Boolean,
    Duration,
    Field,
    FieldType,
    FreeForm,
    Integer,
    ListOf,
    MapOf,
    Object,
    Quantity,
    Text,
)
from resource_builders import Data

Path = tuple[str | int, ...]

_WRONG_TYPES: tuple[Any, ...] = (True, 7, 1.5, "text", [], ["text"], {}, {"x": 1})
_TEXTS = (
    "", "a", "A", "0", "-a", "a-", "a.b", "a/b", "a b", "a\n", "ä", "a\x00", " a", "a_b", "/", "/a", "a:b", "a@b",
    "a" * 63, "a" * 64, "a" * 253, "a" * 254, "a" * 1024, "a" * 1025, "a" * 4097, "v1.2", "generated://tiny",
    "generated://", "hf://a/b", "hf://a", "hf://a/b\n", "file:///x", "file://x", "s3://a/b", "http://h", "HTTPS://H/p",
    "http://h:0", "http://h:1", "http://h:65535", "http://h:65536", "http://h:080", "http://[::1]:8000/v1",
    "http://u:p@h", "http://h?x", "http://h#x", "http://h/a b", "http://-h", "ftp://h", "HF_TOKEN", "1A", "ünïcode",
)  # fmt: skip
_DURATIONS = (
    "1ms", "0s", "999us", "999999ns", "0.9999999999ms", "1.5s", "1m30s", "24h", "24h1ns", "24.0000000000001h", "1h",
    "1h1ns", "10s", "9s", "9.999s", "1s", "0.999s", "25h", "1d", "1", "1 s", "-1s", "+1s", ".5s", "1.s", "1S", "1s\n",
    "1µs", "1000us", "9999999999h", "1" * 40 + "ns", "0.001s", "00001s",
)  # fmt: skip
_QUANTITIES: tuple[Any, ...] = (
    0, 1, -1, 5, 2**31, "0", "1", "1.", ".5", "1.5Gi", "500m", "999m", "4GiB", "-1", "+1", "1e3", "1E3", "1e18", "1e19",
    "1e100", "1Pi", "1025Ti", "1Ei", "1k", "1K", "", "1 ", "1n", "0.5", "1" * 33,
)  # fmt: skip


def variations(fields: tuple[Field, ...], document: Data, path: Path = ()) -> Iterator[tuple[Path, Data]]:
    """The document with one field replaced or removed, for all fields below `path` that it has."""
    holder = _at(document, path)
    for field in fields:
        place = (*path, field.name)
        if field.name in holder:
            yield place, _without(document, place)
            yield from _inside(field.type, document, place)
        for value in _values(field.type):
            yield place, _with(document, place, value)
    yield (*path, "unknownField"), _with(document, (*path, "unknownField"), 1)


def _inside(kind: FieldType, document: Data, place: Path) -> Iterator[tuple[Path, Data]]:
    match kind:
        case Object():
            yield from variations(kind.fields, document, place)
        case ListOf():
            value = _at(document, place)
            yield place, _with(document, place, value * 2)
            yield place, _with(document, place, value * (kind.max_items + 1))
            for item in _values(kind.items):
                yield (*place, 0), _with(document, (*place, 0), item)
            yield from _inside(kind.items, document, (*place, 0))
        case MapOf():
            for key in _TEXTS:
                yield (*place, key), _with(document, (*place, key), next(iter(_at(document, place).values())))
            for item in _values(kind.values):
                yield (*place, "a"), _with(document, (*place, "a"), item)
            many = {f"k{number}": "1" for number in range(kind.max_items + 1)}
            yield place, _with(document, place, many)


def _values(kind: FieldType) -> Iterator[Any]:
    match kind:
        case Integer():
            yield from (kind.minimum, kind.minimum - 1, kind.maximum, kind.maximum + 1, 2**63, *_WRONG_TYPES)
        case Boolean():
            yield from (True, False, *_WRONG_TYPES)
        case Text():
            yield from (*kind.choices, *_TEXTS, *_WRONG_TYPES)
        case Duration():
            yield from (*_DURATIONS, kind.minimum, kind.maximum, *_WRONG_TYPES)
        case Quantity():
            yield from (*_QUANTITIES, *_WRONG_TYPES)
        case FreeForm() | Object() | ListOf() | MapOf():
            yield from _WRONG_TYPES


def _at(document: Any, path: Path) -> Any:
    for step in path:
        document = document[step]
    return document


def _with(document: Data, path: Path, value: Any) -> Data:
    changed: Data = copy.deepcopy(document)
    _at(changed, path[:-1])[path[-1]] = copy.deepcopy(value)
    return changed


def _without(document: Data, path: Path) -> Data:
    changed: Data = copy.deepcopy(document)
    del _at(changed, path[:-1])[path[-1]]
    return changed


def full_documents() -> Mapping[str, Data]:
    """A right document of each kind that has every field which may stand beside the others."""
    objectives = {"timeToFirstToken": "1s", "timePerOutputToken": "50ms"}
    reference = {"secretKeyRef": {"name": "keys", "key": "a"}}
    return {
        "PriorityClass": {
            "weight": 4,
            "objectives": objectives,
            "gain": {"firstToken": 10, "outputToken": 1},
            "headroom": {"percent": 20, "mode": "Reserve"},
            "overload": {"action": "Degrade", "maxQueueTime": "2s", "className": "low"},
        },
        "Tenant": {
            "priorityClassName": "low",
            "maxPriorityClassName": "high",
            "anonymous": False,
            "apiKeys": [reference],
            "limits": {"requestsPerMinute": 60, "tokensPerMinute": 1000, "maxInFlight": 4},
            "models": ["tiny"],
        },
        "EnginePool": {
            "model": {"name": "tiny", "uri": "generated://tiny", "maxModelLength": 4096},
            "scaling": {
                "min": 1, "max": 3, "maxLossPercent": 2, "scaleUpDelay": "30s", "scaleDownDelay": "5m",
            },
            "engine": {
                "runtime": "VLLM",
                "image": "engine:1",
                "args": ["--max-num-seqs=64"],
                "env": [{"name": "HF_TOKEN", **reference}],
                "startLimit": "10m",
                "scheduler": {"policy": "fcfs"},
                "kvOffload": {
                    "hostMemory": "4Gi", "offload": "Async", "reload": "Pipelined", "copyBudget": "Fixed",
                    "copyBlocks": 8,
                },
            },
            "resources": {"limits": {"nvidia.com/gpu": 1}, "requests": {"cpu": "500m"}},
            "pod": {
                "nodeSelector": {"gpu.example/product": "H100"},
                "tolerations": [
                    {
                        "key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute",
                        "tolerationSeconds": 5,
                    }
                ],
                "imagePullSecrets": ["registry"],
                "imagePullPolicy": "Always",
                "serviceAccountName": "engines",
                "priorityClassName": "important",
                "runtimeClassName": "nvidia",
                "sharedMemory": "8Gi",
                "modelCache": {"claimName": "models"},
                "template": {"spec": {"hostIPC": True}},
            },
            "rollout": {"strategy": "Replace"},
            "drain": {"gracePeriod": "60s"},
            "routing": {"policy": "min-load"},
        },
    }  # fmt: skip


def contradictions() -> Iterator[tuple[str, Data]]:
    """Kind and spec of documents that are about what fields may stand together."""
    classes = {"weight": 1, "objectives": {"timeToFirstToken": "1s", "timePerOutputToken": "50ms"}}
    for overload in (
        {}, {"action": "Queue"}, {"action": "Shed"}, {"action": "Shed", "maxQueueTime": "1s"},
        {"action": "Degrade"}, {"action": "Degrade", "className": "low"}, {"action": "Queue", "className": "low"},
        {"className": "low"}, {"maxQueueTime": "1s"},
    ):  # fmt: skip
        yield "PriorityClass", {**classes, "overload": overload}
    reference = {"secretKeyRef": {"name": "keys", "key": "a"}}
    other = {"secretKeyRef": {"name": "keys", "key": "b"}}
    tenants: tuple[Data, ...] = (
        {}, {"anonymous": False}, {"anonymous": True}, {"apiKeys": [reference]}, {"apiKeys": []},
        {"apiKeys": [reference, other]}, {"apiKeys": [reference, reference]}, {"anonymous": True, "models": []},
        {"anonymous": True, "models": ["a", "a"]}, {"anonymous": True, "models": ["a", "b"]},
    )  # fmt: skip
    for tenant in tenants:
        yield "Tenant", {"priorityClassName": "low", **tenant}
    model: Data = {"name": "m", "uri": "generated://tiny"}
    outside: Data = {"model": {"name": "m"}, "endpoints": [{"url": "http://h:1"}]}
    for pool in (
        {"model": model}, {"model": {"name": "m"}}, outside, {**outside, "model": model}, {**outside, "replicas": 1},
        {**outside, "engine": {}}, {**outside, "pod": {}}, {**outside, "scaling": {"max": 2}},
        {**outside, "drain": {}}, {**outside, "rollout": {}}, {**outside, "resources": {}},
        {**outside, "routing": {"policy": "random"}}, {**outside, "endpoints": []},
        {**outside, "endpoints": [{"url": "http://h:1"}, {"url": "http://h:2", "apiKey": reference}]},
        {**outside, "model": {"name": "m", "maxModelLength": 5}},
        {"model": model, "replicas": 0}, {"model": model, "replicas": 1, "scaling": {"max": 2}},
        {"model": model, "scaling": {"min": 3, "max": 2}}, {"model": model, "scaling": {"max": 2}},
        {"model": model, "scaling": {"min": 1}},
    ):  # fmt: skip
        yield "EnginePool", pool
    for argument in (
        "--model=x", "--model", "--model-x", "--served_model_name=x", "--served-model-name", "--max-model-len=5",
        "--max_model-len", "--scheduler-cls=x", "--host", "--port=1", "--kv-offload={}", "--kv-transfer-config={}",
        "-kvt", "--portal", "x--port", "--port=\n", "--kv_transfer_config", "__port", "-_port", "__max_model_len=5",
    ):  # fmt: skip
        yield "EnginePool", {"model": model, "engine": {"args": [argument]}}
        yield (
            "EnginePool",
            {"model": model, "engine": {"args": ["--ok", argument], "kvOffload": {"hostMemory": "1Gi"}}},
        )
    for offload in ({"copyBlocks": 4}, {"copyBlocks": 4, "copyBudget": "Fixed"}, {"copyBudget": "Fixed"}):
        yield "EnginePool", {"model": model, "engine": {"kvOffload": {"hostMemory": "1Gi", **offload}}}
    for variable in ({"name": "A"}, {"name": "A", "value": "1"}, {"name": "A", "value": "1", **reference}):
        yield "EnginePool", {"model": model, "engine": {"env": [variable]}}
    yield "EnginePool", {"model": model, "engine": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}}
    for toleration in (
        {}, {"key": "a"}, {"operator": "Exists"}, {"operator": "Exists", "value": "x"}, {"value": "x"},
        {"key": "a", "tolerationSeconds": 1}, {"key": "a", "effect": "NoExecute", "tolerationSeconds": 1},
        {"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1},
    ):  # fmt: skip
        yield "EnginePool", {"model": model, "pod": {"tolerations": [toleration]}}
    for cache in ({}, {"size": "1Gi"}, {"size": "1Gi", "hostPath": "/x"}, {"hostPath": "/x"}, {"claimName": "x"}):
        yield "EnginePool", {"model": model, "pod": {"modelCache": cache}}
