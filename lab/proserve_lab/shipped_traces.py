"""The traces that come with ProServe, by name (examples/traces/README.md: sources, licences, how they were cut)."""

from pathlib import Path

from proserve_lab.trace import TraceError

DEMO_TRACE = "azure-conv-slice"
_SUFFIXES = (".csv", ".csv.gz")


def shipped_names() -> tuple[str, ...]:
    """Names of all shipped traces, sorted."""
    files = (path.name for suffix in _SUFFIXES for path in _folder().glob(f"*{suffix}"))
    return tuple(sorted(name.removesuffix(".gz").removesuffix(".csv") for name in files))


def shipped_trace(name: str) -> Path:
    """File of a shipped trace.

    Raises:
        TraceError: no trace of this name is shipped.
    """
    for suffix in _SUFFIXES:
        path = _folder() / f"{name}{suffix}"
        if path.is_file():
            return path
    raise TraceError(f"trace {name!r}: not shipped with ProServe; its traces are {', '.join(shipped_names())}")


def find_trace(file_or_name: Path) -> Path:
    """The file itself if there is one, else the shipped trace of that name.

    Raises:
        TraceError: neither exists.
    """
    if file_or_name.exists():
        return file_or_name
    name = str(file_or_name)
    if name in shipped_names():
        return shipped_trace(name)
    raise TraceError(
        f"{name}: cannot read the trace: no such file, and none of the shipped traces ({', '.join(shipped_names())})"
    )


def _folder() -> Path:
    """In an installed package beside the code, in a clone in examples/."""
    package = Path(__file__).resolve().parent
    installed = package / "traces"
    return installed if installed.is_dir() else package.parents[1] / "examples" / "traces"
