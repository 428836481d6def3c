"""The CustomResourceDefinitions, made from the field descriptions.

charts/proserve-crds/templates holds one file for each, as it comes from here and without a template directive: it can
be applied with kubectl, and as a template (not under `crds/`, which Helm never updates) it is kept current on upgrade.
The chart `proserve` brings that chart as a dependency. `helm.sh/resource-policy: keep` lets the definitions, and with
them everybody's resources, outlive an uninstall.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from proserve_core.resources.crd_schema import Schema, object_schema, validations
from proserve_core.resources.fields import Object
from proserve_core.resources.kinds import GROUP, Column, Definition, Kind
from proserve_core.resources.parse import CUSTOM_KINDS

CATEGORY = "proserve"
_MAKE = "# Made by `make docs` from proserve_core.resources: change it there.\n"


def definitions() -> dict[str, dict[str, Any]]:
    """The definitions by file name."""
    made = [_definition(kind, kind.definition) for kind in CUSTOM_KINDS if kind.definition is not None]
    return {f"{crd['spec']['names']['plural']}.yaml": crd for crd in made}


def definition_files() -> dict[str, str]:
    """Text of each file by name."""
    return {
        name: _MAKE + yaml.dump(crd, Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)
        for name, crd in definitions().items()
    }


def _definition(kind: Kind, definition: Definition) -> dict[str, Any]:
    version: dict[str, Any] = {
        "name": kind.api_version.removeprefix(f"{GROUP}/"),
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root(kind, definition)},
        "subresources": _subresources(definition),
        "additionalPrinterColumns": [_column(column) for column in definition.columns],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{definition.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "proserve"},
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": definition.plural,
                "singular": kind.name.lower(),
                "shortNames": [definition.short_name],
                "categories": [CATEGORY],
            },
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [version],
        },
    }


def _root(kind: Kind, definition: Definition) -> Schema:
    schema = object_schema(Object(fields=kind.fields, rules=()))
    status = object_schema(Object(fields=definition.status))
    schema["properties"] = {
        "apiVersion": {"type": "string", "description": "API group and version."},
        "kind": {"type": "string", "description": "Kind of the resource."},
        "metadata": {"type": "object"},
        **schema["properties"],
        "status": {"description": "Written by the operator.", **status},
    }
    return {"description": kind.description, **schema, **validations(definition.rules)}


def _subresources(definition: Definition) -> Mapping[str, Any]:
    subresources: dict[str, Any] = {"status": {}}
    if definition.scalable:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    return subresources


def _column(column: Column) -> dict[str, Any]:
    wide = {"priority": 1} if column.wide else {}
    return {"name": column.name, "type": column.type, "jsonPath": column.path, **wide}


class _Dumper(yaml.SafeDumper):
    """Lists indented below their key, and no anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True
