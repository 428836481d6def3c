"""What a request can still bring when its next token comes late: the worth that gain-aware routers compare.

Source: the recoverable gain of our batching policy (`batching.gain_density`). A request whose next token comes `late_s`
after its deadline misses the first `k = 1 + floor(late_s / (TPOT - step time))` tokens and then has caught up; it is
worth the tokens after those. Engines know how output lengths are distributed; a router has one expected length per
request and takes each token to be the last with the same chance, so that `rest * exp(-k / rest)` tokens are left beyond
the first k.
"""

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]
Mask = NDArray[np.bool_]
Number = Column | float

HOPELESS_SHARE = 0.02
"""A late request with less than this share of its expected tokens left is worth nothing."""
TPOT_SHARE = 0.9
"""Steps are assumed to take at most this share of a TPOT: the rest is what catching up is made of."""
LEAST_REST = 1e-6
"""Expected tokens are taken to be at least this many, so that a request without any can be divided by."""


def gain_left(
    late_s: Column, *, full: Number, token_gain: Number, rest: Number, tpot_s: Number, step_s: Number
) -> Column:
    """Gain left if the next token comes `late_s` after its deadline (negative: in time) and steps take `step_s`.

    Any argument may be one number for all; the result has the shape of `late_s`.
    """
    in_time = late_s < 0
    if in_time.all():
        return np.zeros_like(late_s) + full
    rest = np.maximum(rest, LEAST_REST)
    catch_up_s = tpot_s - np.minimum(step_s, TPOT_SHARE * np.asarray(tpot_s))
    missed = 1 + np.floor(np.maximum(late_s, 0.0) / catch_up_s)
    left = rest * np.exp(-missed / rest)
    left = np.where(left < HOPELESS_SHARE * np.maximum(1.0, rest), 0.0, left)
    return np.where(in_time, full, token_gain * left)
