"""HOST:PORT options."""

import msgspec
import typer


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server listens."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Only this machine gets there."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, option: str) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT` or `:PORT` (every interface) as value of `option`; port 0 lets the system choose.

    Raises:
        typer.BadParameter: the text is none of these; names the option.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise typer.BadParameter(
            f"expected HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:8080; got {text!r}",
            param_hint=repr(option),
        )
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise typer.BadParameter(
            f"write an IPv6 address in brackets, such as [::1]:8080; got {text!r}", param_hint=repr(option)
        )
    return Address(host=host or "0.0.0.0", port=int(port))
