"""`proserve engine drain`: tell an engine that it is to go, and wait for its running requests.

Run by the pod's `preStop`, so that Kubernetes sends SIGTERM when nothing runs any more or the grace period is over;
the gateway continues what is left on another engine. Gateways see `draining` in the snapshot that they wait for, so a
moment is enough until they send nothing new.
"""

import json
import ssl
import time
import urllib.error
import urllib.request

LOOK_S = 0.5
ANSWER_S = 5.0
UNSEEN_S = 2.0
"""At least this long: for gateways to see it, and for what they had sent before to arrive."""


class DrainError(Exception):
    """The engine could not be told; the message says why."""


def drain(root: str, *, grace_s: float, key: str | None = None) -> int:
    """Drain the engine whose capacity server is at `root`; requests that are left after `grace_s`. `key` is the
    engine's. Its certificate is not checked: it is for the name that gateways know, and `root` is this machine.

    Raises:
        DrainError: it does not answer.
    """
    began_s = time.monotonic()
    try:
        _ask(root + "/drain", key, method="POST")
        while True:
            waited_s = time.monotonic() - began_s
            snapshot = json.loads(_ask(root + "/capacity", key))
            left = int(snapshot["running"]) + int(snapshot["waiting"])
            if waited_s >= grace_s or (not left and waited_s >= min(UNSEEN_S, grace_s)):
                return left
            time.sleep(LOOK_S)
    except (OSError, urllib.error.URLError, ValueError, KeyError) as error:
        raise DrainError(f"the engine at {root} does not answer: {error}") from error


def _ask(url: str, key: str | None, *, method: str = "GET") -> bytes:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=ANSWER_S, context=_unchecked()) as reply:
        content: bytes = reply.read()
        return content


def _unchecked() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
