"""The admin port's own key: asked for everywhere but at the probes, replaced without an interruption."""

import base64
from pathlib import Path

import httpx
import pytest

from proserve_core.access_keys import AccessKeysError
from proserve_gateway.admin.guard import guarded
from proserve_gateway.security.renewals import KeyFile

KEY, OTHER = "admin-key-of-16-or-more", "another-key-of-16-or-more"


async def served(scope: object, receive: object, send: object) -> None:
    """An application that answers everything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"ok"})  # type: ignore[operator]


async def status(keys: KeyFile | None, path: str, authorization: str | None = None) -> httpx.Response:
    transport = httpx.ASGITransport(guarded(served, keys))
    headers = {} if authorization is None else {"authorization": authorization}
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
        return await client.get(path, headers=headers)


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


def write(file: Path, text: str | None) -> None:
    """New contents; None: the file is gone."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "admin.keys"
    write(file, f"{KEY}\n")
    return file


@pytest.mark.parametrize("path", ["/status", "/metrics", "/", "/healthz/", "/readyz/../status"])
async def test_everything_but_probes_asks_for_the_key(file: Path, path: str) -> None:
    keys = KeyFile(file)
    for wrong in (None, "", f"Bearer {OTHER}", f"Bearer {KEY}x", KEY, basic(f"{KEY}:"), "Basic !", "Basic"):
        refused = await status(keys, path, wrong)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_admin_key"
        assert refused.headers["www-authenticate"].startswith("Basic ")
    assert (await status(keys, path, f"Bearer {KEY}")).text == "ok"
    assert (await status(keys, path, basic(f"anybody:{KEY}"))).text == "ok"


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
async def test_probes_need_no_key(file: Path, path: str) -> None:
    assert (await status(KeyFile(file), path)).status_code == 200


async def test_without_keys_everybody_is_let_in() -> None:
    assert (await status(None, "/status")).status_code == 200


async def test_key_is_replaced_while_clients_of_the_old_one_go_on(file: Path) -> None:
    keys = KeyFile(file)
    assert not keys.renew()
    write(file, f"{OTHER}\n{KEY}\n")
    assert keys.renew()
    assert [(await status(keys, "/status", f"Bearer {key}")).status_code for key in (KEY, OTHER)] == [200, 200]
    write(file, "short\n")
    with pytest.raises(AccessKeysError, match=r"admin\.keys: line 1: the key has 5 characters"):
        keys.renew()
    assert not keys.renew()
    write(file, None)
    with pytest.raises(AccessKeysError, match=r"admin\.keys: cannot be read: No such file"):
        keys.renew()
    assert (await status(keys, "/status", f"Bearer {KEY}")).status_code == 200
    write(file, f"{OTHER}\n")
    assert keys.renew()
    assert (await status(keys, "/status", f"Bearer {KEY}")).status_code == 401
