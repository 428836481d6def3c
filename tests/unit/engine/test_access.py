"""Engines answer only who knows their key, on every route but the probes'."""

import os
from pathlib import Path

import httpx
import pytest

from proserve_core.access_keys import AccessKeysError
from proserve_engine.access import KEY_FILE, EngineAccess, EngineKeyMiddleware, EngineKeys

KEY, OTHER = "engine-key-of-16-or-more", "another-key-of-16-or-more"


async def served(scope: object, receive: object, send: object) -> None:
    """An application that answers everything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"ok"})  # type: ignore[operator]


async def status(app: EngineAccess, path: str, key: str | None, method: str = "GET") -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine") as client:
        return (await client.request(method, path, headers=headers)).status_code


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "engine.key"
    file.write_text(KEY)
    return file


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize", "/sleep", "/metrics", "/capacity", "/drain"])
async def test_every_route_asks_for_the_key(file: Path, path: str) -> None:
    app = EngineAccess(served, EngineKeys(file))
    for method in ("GET", "POST", "OPTIONS"):
        assert [await status(app, path, key, method) for key in (KEY, OTHER, None)] == [200, 401, 401]


async def test_probes_need_no_key(file: Path) -> None:
    app = EngineAccess(served, EngineKeys(file))
    assert [await status(app, path, None) for path in ("/health", "/healthz", "/readyz")] == [200] * 3


async def test_keys_are_replaced_while_the_engine_runs(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    app = EngineAccess(served, EngineKeys(file, clock=lambda: now_s))
    for number, (text, accepted) in enumerate(
        [(f"{OTHER}\n{KEY}", [200, 200]), (OTHER, [401, 200]), ("short", [401, 200]), (KEY, [200, 401])], 1
    ):
        write(file, text)
        now_s = number * 2.0
        assert [await status(app, "/metrics", key) for key in (KEY, OTHER)] == accepted
    assert "the engine's keys stay as they were" in caplog.text
    assert "short" not in caplog.text.replace(str(file), "").replace("too short", "")


def write(file: Path, text: str) -> None:
    file.write_text(text)


async def test_middleware_of_vllm_takes_the_file_from_the_environment(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, KEY_FILE, str(file))
    guarded = EngineKeyMiddleware(served)
    monkeypatch.delitem(os.environ, KEY_FILE)
    assert [await status(guarded, "/v1/models", key) for key in (KEY, None)] == [200, 401]
    assert await status(EngineKeyMiddleware(served), "/v1/models", None) == 200


async def test_websockets_are_refused_without_the_key(file: Path) -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async def receive() -> None:
        raise AssertionError("nothing is read")

    app = EngineAccess(served, EngineKeys(file))
    await app({"type": "websocket", "path": "/v1/realtime", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_file_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(AccessKeysError, match=r"none\.key: cannot be read: No such file"):
        EngineKeys(tmp_path / "none.key")
