"""Gain as the fields of a status: rounded, so that it changes only when it means something."""

from typing import Any

from proserve_core.gain import GainTotals
from proserve_operator.gain_window import WINDOW_TEXT, GainWindow, pool_subject

SHOWN_LOSS = 0.001
"""Causes below this share of the gain are left out."""
MOST_CLASSES = 64
FIGURES = ("gain", "classes")
"""Fields of a status that hold figures."""


def gain_fields(totals: GainTotals) -> dict[str, Any]:
    """The fields of `status.gain`."""
    fields: dict[str, Any] = {"window": WINDOW_TEXT, "requests": totals.requests}
    if totals.requests:
        fields["ratio"] = _percent(totals.tdg_ratio)
        fields["sloAttainment"] = _percent(totals.slo_attainment)
    if totals.earnable > 0:
        shares = {cause: gain / totals.earnable for cause, gain in totals.lost.items()}
        lost = [
            {"cause": str(cause), "share": _percent(share)}
            for cause, share in sorted(shares.items())
            if share >= SHOWN_LOSS
        ]
        if lost:
            fields["lost"] = lost
    return fields


def subject_figures(window: GainWindow, what: str, name: str) -> dict[str, Any]:
    """Figures of a class or a tenant; none before any gateway reports."""
    return {"gain": gain_fields(window.totals((what, name)))} if window.reporting else {}


def pool_figures(window: GainWindow, pool: str) -> dict[str, Any]:
    """Figures of a pool and of each class that it served."""
    if not window.reporting:
        return {}
    figures: dict[str, Any] = {"gain": gain_fields(window.totals(("pool", pool)))}
    classes = [
        {"className": name, **gain_fields(window.totals((pool_subject(pool), name)))}
        for name in window.classes_of(pool)[:MOST_CLASSES]
    ]
    if classes:
        figures["classes"] = classes
    return figures


def _percent(ratio: float) -> str:
    return f"{min(max(ratio, 0.0), 1.0) * 100:.1f}%"
