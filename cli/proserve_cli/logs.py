"""Log lines on stderr: text for people, or one JSON object per line for collectors (`--log-format json`).

A line about a request has its id in both; in JSON it is a field of its own, like the engine, the pool and the reason.
Nothing logs prompts, answers or keys.
"""

import datetime
import functools
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

TEXT_LINE = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


LogFormatOption = Annotated[
    LogFormat,
    typer.Option("--log-format", envvar="PROSERVE_LOG_FORMAT", help="Of the lines on stderr.", show_envvar=False),
]


class JsonLines(logging.Formatter):
    """One object per line: `time`, `level`, `logger`, `message`, what was given as `extra`, and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        standard = _every_records(logging.getLogRecordFactory())
        line |= {name: value for name, value in vars(record).items() if name not in standard}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


@functools.cache
def _every_records(factory: Callable[..., logging.LogRecord]) -> frozenset[str]:
    """Attributes that a record has whatever it is about: Python's, and those of a library's factory, as vLLM's."""
    return frozenset({*vars(factory(None, logging.NOTSET, "", 0, "", (), None)), "message", "asctime"})


def use_log_format(log_format: LogFormat) -> None:
    """Write the process's log like this from now on."""
    formatter = JsonLines() if log_format is LogFormat.JSON else logging.Formatter(TEXT_LINE)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)


def say(text: str, log_format: LogFormat) -> None:
    """A line for whoever started the command: as it is, or as one of the log's where these are for machines."""
    if log_format is LogFormat.JSON:
        logging.getLogger("proserve").info(text)
    else:
        typer.echo(text, err=True)
