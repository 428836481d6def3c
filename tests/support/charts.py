"""The charts, rendered and packaged by helm for tests."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kubernetes_access import KubernetesAccess

CHARTS = Path(__file__).parents[2] / "charts"
PROSERVE = CHARTS / "proserve"
CRDS = CHARTS / "proserve-crds"


class Refused(Exception):  # noqa: N818 - it is what happened, not what went wrong
    """helm did not accept the values; the message is helm's."""


class _StrictLoader(yaml.SafeLoader):
    """As kustomize and Argo read: no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        if twice := {name for name in names if names.count(name) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"keys that are there twice: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


def render(
    access: KubernetesAccess, values: Mapping[str, Any], *, release: str = "proserve", namespace: str = "serving"
) -> list[dict[str, Any]]:
    """The objects that `helm install` would make, hooks included.

    Raises:
        Refused: the values are wrong.
        yaml.YAMLError: a key is there twice, among others.
    """
    done = access.run(
        "helm",
        "template",
        release,
        str(PROSERVE),
        "--namespace",
        namespace,
        "--values",
        "-",
        stdin=yaml.safe_dump(values),
    )
    if done.returncode != 0:
        raise Refused(done.stderr)
    return [document for document in yaml.load_all(done.stdout, _StrictLoader) if document is not None]


def named(objects: Sequence[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The one object of that kind and name."""
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def container(objects: Sequence[dict[str, Any]], deployment: str) -> dict[str, Any]:
    """The one container of that Deployment."""
    (found,) = named(objects, "Deployment", deployment)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def pod_specs(objects: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of Deployments and Pods."""
    specs = [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "Deployment"]
    return specs + [each["spec"] for each in objects if each["kind"] == "Pod"]


def package_older(access: KubernetesAccess, folder: Path, *, version: str, lacks: Sequence[str]) -> Path:
    """The chart as it might have been before: without one field of EnginePool, of which `lacks` is the path."""
    chart = folder / PROSERVE.name
    shutil.copytree(PROSERVE, chart)
    for file in (chart / "Chart.yaml", chart / "charts" / CRDS.name / "Chart.yaml"):
        described = yaml.safe_load(file.read_text())
        described["version"] = described["appVersion"] = version
        for dependency in described.get("dependencies", ()):
            dependency["version"] = version
        file.write_text(yaml.safe_dump(described))
    file = chart / "charts" / CRDS.name / "templates" / "enginepools.yaml"
    definition = yaml.safe_load(file.read_text())
    level = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in lacks[:-1]:
        level = level["properties"][name]
    del level["properties"][lacks[-1]]
    file.write_text(yaml.safe_dump(definition))
    access.helm("package", str(chart), "--destination", str(folder))
    return folder / f"{PROSERVE.name}-{version}.tgz"
