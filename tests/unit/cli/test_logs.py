"""Log lines for machines."""

import json
import logging
from typing import Any

import pytest

from proserve_cli.logs import JsonLines


def line(message: str, *args: object, **extra: object) -> dict[str, Any]:
    record = logging.getLogger("proserve_gateway.requests.attempts").makeRecord(
        "proserve_gateway.requests.attempts", logging.WARNING, "file", 1, message, args, None, extra=extra
    )
    found: dict[str, Any] = json.loads(JsonLines().format(record))
    return found


def test_line_is_one_object_with_the_requests_id_as_a_field() -> None:
    found = line("request %s: engine %s failed", "abc", "llama-0", request_id="abc", engine="llama-0")
    assert found.pop("time")
    assert found == {
        "level": "warning",
        "logger": "proserve_gateway.requests.attempts",
        "message": "request abc: engine llama-0 failed",
        "request_id": "abc",
        "engine": "llama-0",
    }


def test_lines_never_break() -> None:
    assert line("one\ntwo")["message"] == "one\ntwo"
    try:
        raise ValueError("bad")
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "fault", "exc_info": (ValueError, error, error.__traceback__)})
    text = JsonLines().format(record)
    assert "\n" not in text
    assert "ValueError: bad" in json.loads(text)["exception"]


def test_what_is_no_json_is_written_as_text() -> None:
    assert line("x", error=ValueError("odd"))["error"] == "odd"


def test_what_a_library_puts_on_every_record_is_no_field(monkeypatch: pytest.MonkeyPatch) -> None:
    python = logging.getLogRecordFactory()

    def with_process_name(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = python(*args, **kwargs)
        record.vllm_process_name = "EngineCore"
        return record

    monkeypatch.setattr(logging, "_logRecordFactory", with_process_name)
    found = line("x", request_id="abc")
    assert "vllm_process_name" not in found
    assert found["request_id"] == "abc"
