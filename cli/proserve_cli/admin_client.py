"""What commands ask a gateway's admin port, and how they say that it does not answer."""

import asyncio
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer

from proserve_cli.addresses import parse_address
from proserve_cli.failures import wrong_usage
from proserve_cli.http_get import GetError, get

TIMEOUT_S = 5.0
KEY_VARIABLE = "PROSERVE_ADMIN_KEY"

AdminOption = Annotated[str, typer.Option(help="Admin port of the gateway.", metavar="HOST:PORT")]
AdminKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--admin-key-file",
        help=f"Key of the admin port, where it asks for one; or set {KEY_VARIABLE}.",
        metavar="FILE",
    ),
]

T = TypeVar("T")


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


class AdminError(Exception):
    """The admin port did not answer, or not with what was asked for; the message says what to do."""


class NotFoundError(AdminError):
    """There is no such thing; the message is the gateway's."""


class _Error(msgspec.Struct):
    message: str


class _ErrorReply(msgspec.Struct):
    error: _Error


class AdminClient:
    """Asks one gateway."""

    def __init__(self, admin: str, key_file: Path | None) -> None:
        """The key is the file's first line, or what the environment says.

        Raises:
            typer.Exit: code 2 if the file can't be read.
        """
        key = os.environ.get(KEY_VARIABLE) if key_file is None else _first_line(key_file)
        self._admin = admin
        self._root = f"http://{parse_address(admin, option='--admin')}"
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    async def body(self, path: str) -> bytes:
        """What the gateway answers to `GET path`.

        Raises:
            NotFoundError: 404.
            AdminError: no answer, or another status.
        """
        try:
            status, body = await get(f"{self._root}{path}", timeout_s=TIMEOUT_S, headers=self._headers)
        except GetError as error:
            raise AdminError(
                f"no gateway answers on the admin port {self._admin} ({error}): "
                "is it running, and is that its --admin address?"
            ) from error
        if status == 200:
            return body
        said = error_message(body)
        if status in (401, 403):
            raise AdminError(
                f"the admin port {self._admin} refuses: {said}; give its key by --admin-key-file or in {KEY_VARIABLE}"
            )
        if status == 404:
            raise NotFoundError(said)
        raise AdminError(f"the admin port {self._admin} answered {path} with status {status}: {said}")

    async def ask(self, path: str, kind: type[T]) -> T:
        """The answer to `GET path`, read as `kind`.

        Raises:
            AdminError: as `body`, or it is something else.
        """
        return self.read(await self.body(path), kind)

    def read(self, body: bytes, kind: type[T]) -> T:
        """An answer, read as `kind`.

        Raises:
            AdminError: it is something else.
        """
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise AdminError(f"{self._admin} is not the admin port of a gateway of this release: {error}") from error

    async def all(self, *paths: str) -> list[bytes]:
        """Several answers, asked for at once.

        Raises:
            AdminError: as `body`, for the first that fails.
        """
        return list(await asyncio.gather(*map(self.body, paths)))


def _first_line(file: Path) -> str:
    try:
        lines = file.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise wrong_usage(f"--admin-key-file: {file} can't be read: {error}") from error
    if not lines:
        raise wrong_usage(f"--admin-key-file: {file} is empty; its first line is the key")
    return lines[0]


def error_message(body: bytes) -> str:
    """What an OpenAI-shaped error says."""
    try:
        return msgspec.json.decode(body, type=_ErrorReply).error.message
    except msgspec.MsgspecError:
        return f"{body[:100].decode(errors='replace')!r}"
