"""What the API server makes of what is written: defaults, fields that nobody knows, and several writers."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from api_server import ApiServer
from cluster_objects import Namespace, install_definitions
from document_variations import Path, full_documents
from proserve_core.resources import CUSTOM_KINDS
from proserve_core.resources.fields import Field, ListOf, Object
from resource_builders import Data, document, endpoint_pool, engine_pool, keyed_tenant

KINDS = {kind.name: kind for kind in CUSTOM_KINDS}


@pytest.fixture(scope="module")
def server(api_server: ApiServer) -> ApiServer:
    install_definitions(api_server)
    return api_server


def full(kind: str) -> Data:
    return document(kind, "x", spec=full_documents()[kind])


def objects(fields: tuple[Field, ...], data: Any, path: Path = ()) -> Iterator[tuple[Path, tuple[Field, ...]]]:
    """Every object of a document of which the fields are known, with its path."""
    yield path, fields
    for field in fields:
        inner, place, value = field.type, (*path, field.name), at(data, path).get(field.name)
        if isinstance(inner, ListOf) and value:
            inner, place, value = inner.items, (*place, 0), value[0]
        if isinstance(inner, Object) and value is not None:
            yield from objects(inner.fields, data, place)


def at(data: Any, path: Path) -> Any:
    for step in path:
        data = data[step]
    return data


def stored(server: ApiServer, data: Data) -> Any:
    """As it would be stored; None if it is refused."""
    arguments = ("create", "--dry-run=server", "--validate=ignore", "-o", "json", "-f", "-")
    done = server.run("kubectl", *arguments, stdin=json.dumps(data))
    return json.loads(done.stdout) if done.returncode == 0 else None


@pytest.mark.parametrize("kind", KINDS)
def test_fields_that_nobody_knows_are_dropped_wherever_they_stand(server: ApiServer, kind: str) -> None:
    places = [path for path, _ in objects(KINDS[kind].fields, full(kind))]
    data = full(kind)
    for path in places:
        at(data, path)["unknownField"] = {"a": 1}
    found = stored(server, data)
    assert [path for path in places if "unknownField" in at(found, path)] == []
    assert len(places) >= 5


def test_template_of_pods_is_kept_as_it_is_written(server: ApiServer) -> None:
    template = {"spec": {"anything": [{"of": "theirs"}]}, "unknownField": 1}
    assert stored(server, engine_pool("x", pod={"template": template}))["spec"]["pod"]["template"] == template


@pytest.mark.parametrize("kind", KINDS)
def test_each_default_is_filled_in(server: ApiServer, kind: str) -> None:
    right, tried = full(kind), 0
    for path, fields in objects(KINDS[kind].fields, right):
        for field in fields:
            if field.default is None:
                continue
            tried += 1
            absent, bare = copy.deepcopy(right), copy.deepcopy(right)
            at(absent, path).pop(field.name, None)
            # Other fields may not stand beside the default.
            needed = {each.name for each in fields if each.required}
            for name in set(at(bare, path)) - needed:
                if path:
                    del at(bare, path)[name]
            found = stored(server, absent) or stored(server, bare)
            assert found is not None, f"{path} without {field.name} is refused"
            assert at(found, path)[field.name] == field.default, f"{path} {field.name}"
    assert tried


class Writer:
    """Somebody who applies with a field manager of his own."""

    def __init__(self, namespace: Namespace, name: str) -> None:
        self._namespace = namespace
        self._name = name

    def apply(self, data: Data) -> str:
        """What the API server says against it; empty if it takes it."""
        arguments = ("-n", self._namespace.name, "apply", "--server-side", f"--field-manager={self._name}", "-f", "-")
        return self._namespace.server.run("kubectl", *arguments, stdin=json.dumps(data)).stderr

    def apply_part(self, kind: str, name: str, **spec: object) -> str:
        """A document with these fields alone."""
        return self.apply(document(kind, name, spec=spec))


@pytest.fixture
def namespace(server: ApiServer) -> Namespace:
    return Namespace(server)


@pytest.fixture
def writers(namespace: Namespace) -> tuple[Writer, Writer]:
    return Writer(namespace, "first"), Writer(namespace, "second")


async def test_writers_of_different_fields_do_not_disturb_each_other(
    namespace: Namespace, writers: tuple[Writer, Writer]
) -> None:
    first, second = writers
    assert first.apply(keyed_tenant("alice")) == ""
    model = {"name": "tiny", "uri": "generated://tiny"}
    assert first.apply(engine_pool("tiny", model=model, engine={"image": "engine:1"})) == ""
    assert second.apply_part("Tenant", "alice", priorityClassName="high", limits={"maxInFlight": 4}) == ""
    assert second.apply_part("EnginePool", "tiny", model=model, engine={"startLimit": "5m"}, replicas=3) == ""
    assert "conflict" in second.apply_part("EnginePool", "tiny", model=model, engine={"image": "engine:2"})
    # What the first no longer sends goes, what the second sends stays.
    assert first.apply(engine_pool("tiny", model=model)) == ""
    spec = (await namespace.get("epool", "tiny"))["spec"]
    assert (spec["engine"].get("image"), spec["engine"]["startLimit"], spec["replicas"]) == (None, "5m", 3)


async def test_items_with_a_name_have_each_their_own_writer(
    namespace: Namespace, writers: tuple[Writer, Writer]
) -> None:
    for number, writer in enumerate(writers):
        variable = {"name": f"V{number}", "value": "1"}
        fields = {"engine": {"env": [variable]}, "pod": {"imagePullSecrets": [f"s{number}"]}}
        assert writer.apply(engine_pool("tiny", **fields)) == ""
        assert writer.apply(endpoint_pool("outside", f"http://h{number}")) == ""
        assert (
            writer.apply_part("Tenant", "alice", priorityClassName="high", anonymous=True, models=[f"m{number}"]) == ""
        )
    tiny, outside = await namespace.get("epool", "tiny"), await namespace.get("epool", "outside")
    assert {each["name"] for each in tiny["spec"]["engine"]["env"]} == {"V0", "V1"}
    assert set(tiny["spec"]["pod"]["imagePullSecrets"]) == {"s0", "s1"}
    assert {each["url"] for each in outside["spec"]["endpoints"]} == {"http://h0", "http://h1"}
    assert set((await namespace.get("ptn", "alice"))["spec"]["models"]) == {"m0", "m1"}


@pytest.mark.parametrize(
    ("path", "mine", "theirs"),
    [
        (".spec.apiKeys", keyed_tenant("x", key="a"), keyed_tenant("x", key="b")),
        (".spec.engine.args", engine_pool("x", engine={"args": ["-a"]}), engine_pool("x", engine={"args": ["-b"]})),
        (
            ".spec.pod.tolerations",
            engine_pool("x", pod={"tolerations": [{"key": "a"}]}),
            engine_pool("x", pod={"tolerations": [{"key": "b"}]}),
        ),
    ],
)
async def test_lists_that_are_one_decision_have_one_writer(
    writers: tuple[Writer, Writer], path: str, mine: Data, theirs: Data
) -> None:
    first, second = writers
    assert first.apply(mine) == ""
    assert f'conflict with "first": {path}' in second.apply(theirs)
