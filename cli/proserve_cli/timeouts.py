"""Durations on the command line: `--timeout NAME=DURATION`, how long the gateway waits for engines and clients, and
`--grace`, how long what leaves lets requests end."""

from collections.abc import Sequence

from proserve_cli.failures import wrong_usage

FIELDS = {
    "connect": "connect_s",
    "headers": "head_s",
    "silence": "idle_s",
    "hang": "lost_quiet_s",
    "stuck": "stuck_s",
    "total": "total_s",
    "client": "stall_s",
}
"""Fields of the gateway's `UpstreamLimits` by the names that the command line has for them."""


def parse_timeouts(texts: Sequence[str]) -> dict[str, float]:
    """Seconds by field of `UpstreamLimits`.

    Raises:
        typer.Exit: a name or a duration that does not exist; all of them are printed.
    """
    from proserve_core.resources.scalars import parse_duration

    found: dict[str, float] = {}
    errors = []
    for text in texts:
        name, equals, duration = text.partition("=")
        if name not in FIELDS or not equals:
            errors.append(f"--timeout {text}: write NAME=DURATION with a name of {', '.join(FIELDS)}")
            continue
        try:
            seconds = parse_duration(duration)
        except ValueError as error:
            errors.append(f"--timeout {text}: {error}")
            continue
        if seconds <= 0:
            errors.append(f"--timeout {text}: it must be more than 0")
        found[FIELDS[name]] = seconds
    if errors:
        raise wrong_usage("\n".join(errors))
    return found


def parse_grace(text: str) -> float:
    """Seconds.

    Raises:
        typer.Exit: it is no duration.
    """
    from proserve_core.resources.scalars import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise wrong_usage(f"--grace: {text!r} is not a duration; {error}") from error
