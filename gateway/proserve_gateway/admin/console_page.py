"""The console: a page on the admin port that shows gain, engines and the last decisions.

Plain files of this package, read once, no build step and no other server: it works offline. The page asks the admin
port's own routes and may load nothing else (Content-Security-Policy); it writes what they say as text, never as HTML.
"""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
INDEX = "index.html"
NAMES = (
    INDEX,
    "console.css",
    "console.js",
    "decisions.js",
    "dom.js",
    "engines.js",
    "gain.js",
    "headroom.js",
    "icon.svg",
)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def console_routes() -> list[Route]:
    """`/` and the files that the page loads."""
    folder = files("proserve_gateway.admin") / "console"
    contents = {name: (folder / name).read_bytes() for name in NAMES}

    def serve(name: str) -> Route:
        path = "/" if name == INDEX else f"/console/{name}"

        async def answer(_: Request) -> Response:
            return Response(contents[name], media_type=_TYPES[name.rpartition(".")[2]], headers=_HEADERS)

        return Route(path, answer)

    return [serve(name) for name in NAMES]
