"""What an installation decides for all pools: images, who may reach engines, where gateways report."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

_INTERVAL = re.compile(r"[1-9][0-9]*(ms|s|m|h)")
_SELECTOR = re.compile(r"[A-Za-z0-9./_-]+=[A-Za-z0-9._-]*")


class SettingsError(ValueError):
    """An option makes no sense; the message names option, value and fix."""


class OperatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Options of `proserve operator`."""

    namespaces: tuple[str, ...] = ()
    """Whose resources are looked after; empty: the whole cluster's."""
    engine_image: str = "proserve-engine"
    """Of pools that name none."""
    emulator_image: str = "proserve-gateway"
    """The same for emulated engines."""
    gateway_admin: str | None = None
    """`http://HOST:PORT` of a headless Service: every address behind it is a gateway. None: no gateway reports."""
    gateway_admin_key_file: Path | None = None
    """Where the key of their admin port stands."""
    gateway_namespace: str | None = None
    gateway_labels: Mapping[str, str] = {}
    """Pods that may reach engines; empty: no NetworkPolicy is made."""
    scraper_namespace: str | None = None
    """Its pods may read metrics of engines."""
    monitors: bool = True
    """Whether engines get ServiceMonitors, where the cluster has that kind."""
    monitor_labels: Mapping[str, str] = {}
    """Of ServiceMonitors, by which Prometheus finds them."""
    monitor_interval: str | None = None
    """Between two readings, as Prometheus writes it. None: Prometheus' own."""
    max_concurrent_rollouts: int = 5
    """Pools that roll at the same time because this operator makes their pods otherwise than the one before."""
    lease_name: str = "proserve-operator"
    lease_namespace: str = "default"
    identity: str = ""
    """Of this process among the replicas of the operator."""
    resync_s: float = 300.0
    """Everything is looked at again this often, even if nothing seems to have changed."""
    report_s: float = 15.0
    """Between two readings of the gateways' gain."""
    status_s: float = 60.0
    """Figures in a status change at most this often."""


def parse_labels(option: str, text: str) -> dict[str, str]:
    """`key=value,key=value`.

    Raises:
        SettingsError: it has another form.
    """
    parts = [part for part in text.split(",") if part]
    if not parts or not all(_SELECTOR.fullmatch(part) for part in parts):
        raise SettingsError(f"{option}: expected labels such as 'app=gateway,tier=front', got {text!r}")
    return dict(part.split("=", 1) for part in parts)


def parse_interval(option: str, text: str) -> str:
    """The text itself, a time that Prometheus reads.

    Raises:
        SettingsError: it has another form.
    """
    if not _INTERVAL.fullmatch(text):
        raise SettingsError(f"{option}: expected a time such as '15s' or '1m', got {text!r}")
    return text
