"""Tables and figures as text."""

from collections.abc import Iterable, Sequence

MISSING = "-"
NOT_RUN = "Not run."


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A Markdown table; the first columns are `words`, the others figures and aligned right."""
    lines = ["| " + " | ".join(headings) + " |", "|---" * words + "|--:" * (len(headings) - words) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def ratio(value: float | None, *, bold: bool = False) -> str:
    """A share of 1, such as 0.928."""
    if value is None:
        return MISSING
    return f"**{value:.3f}**" if bold else f"{value:.3f}"


def points(value: float | None, digits: int = 1) -> str:
    """A difference of shares in points of a hundred, such as +1.4."""
    if value is None:
        return MISSING
    return f"{round(100 * value, digits) + 0.0:+.{digits}f}"  # adding 0 makes -0.0 a plain 0


def percent(value: float | None) -> str:
    """A relative change, such as +11%."""
    return MISSING if value is None else f"{100 * value:+.0f}%"


def with_best_bold(values: Sequence[float | None], digits: int = 3) -> list[str]:
    """A column of shares; all that round to the best one are bold."""
    best = max((round(value, digits) for value in values if value is not None), default=None)
    return [ratio(value, bold=value is not None and round(value, digits) == best) for value in values]
