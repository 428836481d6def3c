"""Kubernetes quantities as numbers."""

import pytest

from proserve_core.quantities import is_quantity, whole_units


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("1", 1), ("4Gi", 2**32), ("1.5Gi", 3 * 2**29), (".5Ki", 512), ("1500M", 1_500_000_000), ("2k", 2000),
        ("1e3", 1000), ("1E3", 1000), ("5E", 5 * 10**18), ("500m", 0), ("2500m", 2), ("0", 0), ("1e-99", 0),
    ],
)  # fmt: skip
def test_quantities_are_whole_units_rounded_down(text: str, units: int) -> None:
    assert is_quantity(text)
    assert whole_units(text) == units


@pytest.mark.parametrize("text", ["", "4GiB", "-1", "1 Gi", "Gi", "1.2.3", "\u0661Gi", "1" * 65])
def test_other_texts_are_refused(text: str) -> None:
    assert not is_quantity(text)
    with pytest.raises(ValueError, match="write a quantity such as"):
        whole_units(text)


def test_more_than_kubernetes_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="write at most 1e18"):
        whole_units("1e99")
