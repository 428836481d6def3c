"""What is wrong with a set of resources: every error at once, each with its place, the value and the fix."""

from collections.abc import Iterable
from difflib import get_close_matches

import msgspec


class ResourceError(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong."""

    source: str
    """Document: `file.yaml#2 (Tenant default/alice)`."""
    path: str
    """Field: `spec.objectives.timeToFirstToken`; empty when the whole document is meant."""
    problem: str
    """What is wrong, with the value."""
    fix: str
    """What to do about it."""
    others: tuple[str, ...] = ()
    """Documents that this one contradicts, where a change of one of them could be what is wrong."""

    def __str__(self) -> str:
        place = f"{self.source}: {self.path}" if self.path else self.source
        return f"{place}: {self.problem}; {self.fix}"


class ResourceErrors(ValueError):  # noqa: N818 - it is the list of them
    """The resources can't be used; nothing of them is taken over. `errors` and the text list everything wrong."""

    def __init__(self, errors: Iterable[ResourceError]) -> None:
        self.errors = tuple(errors)
        count = "1 error" if len(self.errors) == 1 else f"{len(self.errors)} errors"
        super().__init__("\n".join([f"{count} in the resources:", *(f"  - {error}" for error in self.errors)]))


_SHOWN_CHARACTERS = 60


def show(value: object) -> str:
    """A value in an error message: short, on one line, as YAML would call it. Containers are only named."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**_SHOWN_CHARACTERS else "a huge number"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "…")
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return f"a {type(value).__name__}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """The fix for a word that is not among `known`: the closest one, or all of them."""
    names = sorted(known)
    folded: dict[str, str] = {_fold(name): name for name in names}
    close = get_close_matches(_fold(word), folded, n=1, cutoff=0.6)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    return f"known here: {', '.join(names)}" if names else "there is none yet: declare it"


def _fold(word: str) -> str:
    return word[:_SHOWN_CHARACTERS].lower().replace("_", "").replace("-", "")
