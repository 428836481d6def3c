"""Whether a stored result is still what the code would give: a hash of the code that decides it.

The code is found by following imports from the modules that simulate and from the policy's own module, so a change of
one policy makes only its cells stale. Docstrings, comment lines and blank lines don't count. Data (requests, limits,
step times) are hashed by whoever has them.
"""

import ast
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

OWN = ("proserve_core", "proserve_lab")
NEUTRAL = (
    "proserve_core.batching.explain",
    "proserve_core.batching.registry",
    "proserve_core.blocks",
    "proserve_core.capacity",
    "proserve_core.capacity_rows",
    "proserve_core.kv_host",
    "proserve_core.replica_kv",
    "proserve_core.replica_link",
    "proserve_core.resources",
    "proserve_core.routing",
    "proserve_lab.simulation.audit",
    "proserve_lab.simulation.fleet",
    "proserve_lab.simulation.host_audit",
    "proserve_lab.simulation.workload",
)
"""Imported by the simulation, but without effect on what one replica without host memory does with given requests."""


def code_hash(modules: Sequence[str]) -> str:
    """Hash of the source of `modules` and of all of ours that they import."""
    digest = hashlib.sha256()
    for name in sorted(_closure(modules)):
        digest.update(f"{name}\n{_code(name)}\n".encode())
    return digest.hexdigest()[:16]


def _closure(modules: Sequence[str]) -> set[str]:
    found: set[str] = set()
    left = list(modules)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += _imports(name)
    return found


@cache
def _imports(name: str) -> tuple[str, ...]:
    """Our modules that the module imports."""
    wanted: set[str] = set()
    for node in ast.walk(ast.parse(_source(name))):
        if isinstance(node, ast.Import):
            wanted.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted.add(node.module)
            wanted.update(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(module for module in sorted(wanted) if _counts(module))


def _counts(module: str) -> bool:
    if module.split(".")[0] not in OWN or any(module == name or module.startswith(f"{name}.") for name in NEUTRAL):
        return False
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # `module` is a class or function of a module that is no package
        return False


@cache
def _source(name: str) -> str:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"module {name!r} has no source to hash")
    return Path(spec.origin).read_text(encoding="utf-8")


@cache
def _code(name: str) -> str:
    """The source without docstrings, comment lines and blank lines."""
    source = _source(name)
    documented = {line for first, last in _docstrings(ast.parse(source)) for line in range(first, last + 1)}
    return "\n".join(
        line.rstrip()
        for number, line in enumerate(source.splitlines(), start=1)
        if number not in documented and line.strip() and not line.lstrip().startswith("#")
    )


def _docstrings(tree: ast.AST) -> Iterator[tuple[int, int]]:
    """First and last lines of strings that stand alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.end_lineno or node.lineno
