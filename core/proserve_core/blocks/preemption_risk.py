"""How likely a resident is to lose its KV blocks before it ends.

Blocks run out when residents grow and prompts come in faster than requests end. Victims come from the tail of the
order, so a request is preempted when what the others take has used up the free blocks and those of everybody behind it:
its cushion. The net consumption of blocks is watched (`BlockDemand`) and taken for a random walk with drift: `drift`
blocks per second, with a variance that grows by `variance` per second. The probability that it reaches the cushion
within a time has a closed form, the distribution of the first passage of Brownian motion with drift (inverse Gaussian).

How far consumption reaches into the residents depends on the policy: most let waiting requests take free blocks only.
So the walk gives the order of risks, and their level is learned: `RiskLevel` compares the preemptions that were
predicted with those that happened, and scales the hazard of everybody by the ratio.

The source of the idea is ProServe's priority-aware threshold (section 4.3: lower priority is likelier to be preempted);
the paper names no probability. This one needs no table of classes: rank, free blocks and load are all in it.
"""

import math

import msgspec

MEMORY_S = 10.0
"""Consumption is averaged over about so long."""
LEVEL_MEMORY_S = 60.0
"""Preemptions are compared with predictions over about so long."""
MOST = 0.999
"""Highest probability before it is scaled: certainty has no hazard that could be."""
LEAST_SPREAD = 1e-9
_FAR = 25.0


class DemandRate(msgspec.Struct, frozen=True, kw_only=True):
    """Net consumption of device blocks: what is allocated minus what ended requests give back."""

    drift: float
    """Blocks per second; below 0 the engine drains."""
    variance: float
    """Blocks squared per second."""


class BlockDemand:
    """Watches the net consumption of blocks."""

    def __init__(self) -> None:
        self._elapsed_s = 0.0
        self._consumed = 0.0
        self._squares = 0.0

    def observe(self, blocks: float, elapsed_s: float) -> None:
        """Note a step of `elapsed_s` seconds in which `blocks` more were allocated than ended requests gave back.

        Blocks that preemptions free don't count as given back: they are what the consumption led to.
        """
        if elapsed_s <= 0:
            return
        keep = math.exp(-elapsed_s / MEMORY_S)
        self._elapsed_s = keep * self._elapsed_s + elapsed_s
        self._consumed = keep * self._consumed + blocks
        # Per step the deviation from the drift; with few seconds seen the drift is itself a guess.
        deviation = blocks - self._consumed / self._elapsed_s * elapsed_s
        self._squares = keep * self._squares + deviation * deviation

    @property
    def rate(self) -> DemandRate:
        """The recent rate; nothing while nothing was seen."""
        if self._elapsed_s <= 0:
            return DemandRate(drift=0.0, variance=0.0)
        return DemandRate(drift=self._consumed / self._elapsed_s, variance=self._squares / self._elapsed_s)


class RiskLevel:
    """Compares predicted and real preemptions."""

    def __init__(self) -> None:
        self._predicted = 0.0
        self._happened = 0.0

    def observe(self, *, predicted: float, happened: int, elapsed_s: float) -> None:
        """Note a step: preemptions predicted for it (the sum of `chance_within` over the residents), and real ones."""
        keep = math.exp(-elapsed_s / LEVEL_MEMORY_S)
        self._predicted = keep * self._predicted + predicted
        self._happened = keep * self._happened + happened

    @property
    def factor(self) -> float:
        """Real hazard over the predicted one; 1 while little was predicted and nothing happened."""
        return (self._happened + 1) / (self._predicted + 1)

    def scaled(self, probability: float) -> float:
        """`probability` with its hazard scaled."""
        return -math.expm1(math.log1p(-min(probability, MOST)) * self.factor)


def chance_within(probability: float, *, horizon_s: float, elapsed_s: float) -> float:
    """Probability of a preemption in `elapsed_s` if it is `probability` within `horizon_s`, at an even hazard."""
    if horizon_s <= elapsed_s:
        return probability
    return -math.expm1(math.log1p(-min(probability, MOST)) * elapsed_s / horizon_s)


def preemption_probability(*, cushion: float, horizon_s: float, demand: DemandRate) -> float:
    """Probability that consumption reaches `cushion` blocks within `horizon_s` seconds, 0 to 1.

    With L the cushion, c the drift, s the standard deviation per square root of a second and T the horizon:
    `N((cT - L) / (s sqrt T)) + exp(2cL / s^2) N(-(cT + L) / (s sqrt T))`, N being the normal distribution function.
    """
    if cushion <= 0:
        return 1.0
    if horizon_s <= 0:
        return 0.0
    spread = math.sqrt(demand.variance * horizon_s)
    expected = demand.drift * horizon_s
    if spread <= LEAST_SPREAD * cushion:
        return 1.0 if expected >= cushion else 0.0
    beyond = (cushion - expected) / spread
    back = (cushion + expected) / spread
    # exp(2cL / s^2) overflows where the other factor underflows; the product is exp(-beyond^2 / 2) * Mills' ratio.
    reflected = (
        math.exp(-beyond * beyond / 2) * _mills(back) if back > 0 else _reflected_draining(cushion, demand, back)
    )
    return min(1.0, _upper_tail(beyond) + reflected)


def _upper_tail(value: float) -> float:
    return math.erfc(value / math.sqrt(2)) / 2


def _mills(value: float) -> float:
    """`exp(value^2 / 2)` times the upper tail at `value` >= 0."""
    if value < _FAR:
        return math.exp(value * value / 2) * _upper_tail(value)
    return (1 - 1 / (value * value)) / (value * math.sqrt(2 * math.pi))


def _reflected_draining(cushion: float, demand: DemandRate, back: float) -> float:
    """The same for a drain that outruns the cushion: the exponent is negative."""
    return math.exp(2 * demand.drift * cushion / demand.variance) * _upper_tail(back)
