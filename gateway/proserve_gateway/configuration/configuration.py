"""Where configurations come from after the first one, and what is known about the one in force.

A source watches something (`files`: the resource files) and gives every new state as a whole to the
gateway, which takes it or refuses it as a whole. The gateway serves with the last good one whatever happens to the
source (ARCHITECTURE, section 4).
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from proserve_core.resources import Resources
from proserve_gateway.fleet.target import EngineTarget
from proserve_gateway.metrics import GatewayMetrics

logger = logging.getLogger(__name__)

Problems = Mapping[str, Sequence[str]]
"""Lines for people by `Kind/namespace/name`."""


class ConfigurationTaker(Protocol):
    """The gateway, as a source sees it."""

    def configure(self, resources: Resources, engines: Sequence[EngineTarget]) -> None:
        """Replace the configuration. `engines` are those that the resources don't name as `endpoints`.

        Raises:
            ValueError: the new one contradicts itself; the old one stays in force.
        """

    def refused(self, error: str) -> None:
        """There is a new configuration that can't be used; `error` lists everything that is wrong."""

    def left_out(self, problems: Problems) -> None:
        """What is wrong with resources that are not in the configuration as they are."""

    def unlisted(self, lists: int) -> None:
        """So many lists are refused for want of rights: what they would tell is not known, or no longer."""


class ConfigurationSource(Protocol):
    """Something that brings configurations."""

    async def follow(self, taker: ConfigurationTaker) -> None:
        """Give every change to `taker` until cancelled; one that it refuses is told to its `refused`."""


async def follow(source: ConfigurationSource, taker: ConfigurationTaker) -> None:
    """Run a source; a fault of it is told to `taker`, and raised."""
    try:
        await source.follow(taker)
    except Exception as error:
        taker.refused(f"the source of the configuration failed: {error!r}")
        raise


class ConfigurationRecord:
    """What became of the configurations, as metrics, log and for people."""

    def __init__(self, metrics: GatewayMetrics, *, wall_clock: Callable[[], float] = time.time) -> None:
        """The first configuration is in force."""
        self._metrics = metrics
        self._wall_clock = wall_clock
        self.error = ""
        """Why the newest configuration was refused; empty while it is in force."""
        self._good()

    def applied(self) -> None:
        """A new configuration is in force."""
        self._metrics.configurations.labels("applied").inc()
        self._good()
        logger.info("a new configuration is in force")

    def refused(self, error: str) -> None:
        """A new configuration was refused."""
        self._metrics.configurations.labels("refused").inc()
        self._metrics.configuration_good.set(0)
        self.error = error
        logger.error("a new configuration is refused, the last good one stays in force: %s", error)

    def _good(self) -> None:
        self.error = ""
        self._metrics.configuration_good.set(1)
        self._metrics.configuration_loaded_s.set(self._wall_clock())
