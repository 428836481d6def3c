"""How reports draw: SVG, the same bytes for the same figures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "proserve",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def draw(pictures: Callable[[], Mapping[str, Figure]], folder: Path) -> None:
    """Make pictures and write each to `folder`, under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_SETTINGS):
        for name, figure in pictures().items():
            # Without a date and a version the file changes only with its figures.
            figure.savefig(folder / f"{name}.svg", format="svg", metadata={"Date": None, "Creator": None})
