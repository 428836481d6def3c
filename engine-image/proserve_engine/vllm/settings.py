"""How the engine process is told what to do: environment variables, because vLLM builds the scheduler itself."""

from collections.abc import Mapping
from typing import Any

import msgspec

from proserve_engine.access import KEY_FILE
from proserve_engine.tls import TlsPair

POLICY = "PROSERVE_POLICY"
POLICY_OPTIONS = "PROSERVE_POLICY_OPTIONS"
CAPACITY_HOST = "PROSERVE_CAPACITY_HOST"
CAPACITY_PORT = "PROSERVE_CAPACITY_PORT"
CALIBRATION = "PROSERVE_CALIBRATION"
STEP_LOG = "PROSERVE_STEP_LOG"
LENGTHS_FILE = "PROSERVE_LENGTHS_FILE"
TLS_CERT = "PROSERVE_ENGINE_TLS_CERT"
TLS_KEY = "PROSERVE_ENGINE_TLS_KEY"

DEFAULT_POLICY = "fcfs"
DEFAULT_HOST = "127.0.0.1"


class SettingsError(ValueError):
    """An environment variable has an unusable value; the message names it."""


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one engine process."""

    policy: str = DEFAULT_POLICY
    policy_options: dict[str, Any] = {}
    calibration: str | None = None
    """Calibration whose latency model is the starting point of the online fit; None: that of a common GPU and model."""
    capacity_host: str = DEFAULT_HOST
    capacity_port: int | None = None
    """Port of `/capacity`; None: none is served. Data-parallel rank n listens on port + n."""
    step_log: str | None = None
    """File that each step is appended to as a line of JSON; None: no log."""
    lengths_file: str | None = None
    """File that keeps what the policy has learned of output lengths; None: each process learns anew. Data-parallel rank
    n above 0 adds `.n` to the name."""
    key_file: str | None = None
    """File with the keys of both ports (see `access`); None: everybody is let in."""
    tls: TlsPair | None = None
    """With which both ports serve; None: they speak plain text."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "EngineSettings":
        """Read the variables of this module.

        Raises:
            SettingsError: options that are no JSON object, a port that is no port, a certificate without a key.
        """
        return cls(
            policy=environment.get(POLICY) or DEFAULT_POLICY,
            policy_options=_options(environment.get(POLICY_OPTIONS, "")),
            calibration=environment.get(CALIBRATION) or None,
            capacity_host=environment.get(CAPACITY_HOST) or DEFAULT_HOST,
            capacity_port=_port(environment.get(CAPACITY_PORT, "")),
            step_log=environment.get(STEP_LOG) or None,
            lengths_file=environment.get(LENGTHS_FILE) or None,
            key_file=environment.get(KEY_FILE) or None,
            tls=_tls(environment.get(TLS_CERT, ""), environment.get(TLS_KEY, "")),
        )

    def to_environment(self) -> dict[str, str]:
        """The variables that `from_environment` reads back."""
        environment = {POLICY: self.policy, CAPACITY_HOST: self.capacity_host}
        if self.policy_options:
            environment[POLICY_OPTIONS] = msgspec.json.encode(self.policy_options).decode()
        if self.calibration is not None:
            environment[CALIBRATION] = self.calibration
        if self.capacity_port is not None:
            environment[CAPACITY_PORT] = str(self.capacity_port)
        if self.step_log is not None:
            environment[STEP_LOG] = self.step_log
        if self.lengths_file is not None:
            environment[LENGTHS_FILE] = self.lengths_file
        if self.key_file is not None:
            environment[KEY_FILE] = self.key_file
        if self.tls is not None:
            environment |= {TLS_CERT: self.tls.certificate, TLS_KEY: self.tls.key}
        return environment


def _options(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise SettingsError(f'{POLICY_OPTIONS}: expected a JSON object such as {{"alpha": 0.5}}: {error}') from error


def _tls(certificate: str, key: str) -> TlsPair | None:
    if bool(certificate) != bool(key):
        raise SettingsError(f"{TLS_CERT} and {TLS_KEY} need each other: set both, or none")
    return TlsPair(certificate=certificate, key=key) if certificate else None


def _port(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise SettingsError(f"{CAPACITY_PORT}: expected a port from 0 to 65535, got {text!r}")
    return int(text)
