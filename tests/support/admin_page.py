"""A gateway's admin port that answers what a test says."""

import contextlib
import http.server
import threading
from collections.abc import Iterator, Mapping

import msgspec


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

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = page.answer(self.path, self.headers.get("authorization"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(msgspec.json.encode(body))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        page.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield page
        finally:
            server.shutdown()
            thread.join()
