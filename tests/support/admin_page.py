"""A gateway's admin port that answers what a test says."""

import contextlib
from collections.abc import Iterator, Mapping

import msgspec

from local_server import QuietHandler, local_server


class AdminPage:
    """Answers by path; whatever else is asked for is a 404 in OpenAI's shape."""

    def __init__(self, answers: Mapping[str, object], key: str | None) -> None:
        self.answers = dict(answers)
        self.key = key
        self.address = ""

    def answer(self, path: str, authorization: str | None) -> tuple[int, object]:
        if self.key is not None and authorization != f"Bearer {self.key}":
            return 401, {"error": {"message": "the admin port wants its key"}}
        if path in self.answers:
            return 200, self.answers[path]
        return 404, {"error": {"message": f"nothing at {path}"}}


@contextlib.contextmanager
def admin_page(answers: Mapping[str, object], *, key: str | None = None) -> Iterator[AdminPage]:
    """Serves values as JSON."""
    page = AdminPage(answers, key)

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - name of http.server
            status, body = page.answer(self.path, self.headers.get("authorization"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(msgspec.json.encode(body))

    with local_server(Handler) as page.address:
        yield page
