"""A pool whose engines ask for a key, get a certificate, and sleep when nobody asks: nothing that a client could notice
but time."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import NotFoundError, OpenAI

from installation import Installation
from kubernetes_keys import make_authority, make_certificate

TOKEN_LIMIT = 4
PROBE = """
import urllib.error, urllib.request
for path in ("/v1/models", "/capacity", "/metrics", "/readyz"):
    try:
        print(urllib.request.urlopen("http://127.0.0.1:8000" + path).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""
TLS_PROBE = """
import http.client, ssl
try:
    connection = http.client.HTTPConnection("127.0.0.1", 8000)
    connection.request("GET", "/health")
    print(connection.getresponse().status)
except ConnectionError:
    print("closed")
print(ssl.get_server_certificate(("127.0.0.1", 8000)))
"""


def documents() -> list[dict[str, Any]]:
    keys = {"secretKeyRef": {"name": "keyed-engines", "key": "keys"}}
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "keyed-engines", "namespace": "default"},
            "stringData": {"keys": secrets.token_hex(24)},
        },
        {
            "apiVersion": "proserve.dev/v1alpha1",
            "kind": "EnginePool",
            "metadata": {"name": "keyed", "namespace": "default"},
            "spec": {
                "model": {"name": "keyed", "uri": "generated://tiny"},
                "engine": {"runtime": "Emulated", "keys": keys},
                "drain": {"gracePeriod": "10s"},
            },
        },
    ]


@pytest.fixture(scope="module")
def keyed(installation: Installation) -> Iterator[Installation]:
    """With the pool `keyed`, ready."""
    cluster = installation.cluster
    cluster.kubectl("apply", "-f", "-", stdin="\n---\n".join(json.dumps(each) for each in documents()))
    try:
        installation.wait_ready("keyed")
        yield installation
    finally:
        cluster.kubectl("delete", "enginepool/keyed", "secret/keyed-engines", "secret/keyed-tls", "--ignore-not-found")
        installation.wait_pods("keyed", 0)


def tokens(installation: Installation, *, limit_s: float) -> int:
    client = OpenAI(base_url=f"{installation.http}/v1", api_key="sk-demo-product", max_retries=0, timeout=limit_s)
    try:
        answer = client.completions.create(model="keyed", max_tokens=TOKEN_LIMIT, prompt="Hello")
    except NotFoundError:
        # The gateway has not heard of the pool.
        return 0
    return 0 if answer.usage is None else answer.usage.completion_tokens


def test_engines_answer_gateways_and_nobody_else(keyed: Installation) -> None:
    keyed.cluster.wait_for(lambda: tokens(keyed, limit_s=30) == TOKEN_LIMIT, limit_s=30, what="an answer")
    (pod,) = keyed.pods("keyed")
    said = keyed.cluster.kubectl("exec", pod, "--", "python3", "-c", PROBE).split()
    assert said == ["401", "401", "401", "200"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one that makes certificates."""
    folder = tmp_path_factory.mktemp("authority")
    make_authority(folder)
    return folder


def certificate(folder: Path) -> dict[str, Any]:
    """A new one, as cert-manager writes it."""
    make_certificate(folder, "tls", subject="/CN=engine", addresses=["DNS:engine-keyed.default.svc"])
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "keyed-tls", "namespace": "default"},
        "type": "kubernetes.io/tls",
        "stringData": {name: (folder / name).read_text() for name in ("tls.crt", "tls.key", "ca.crt")},
    }


def probed(keyed: Installation, engine: str) -> tuple[str, str]:
    """What becomes of a connection without TLS, and the certificate of one with it."""
    plain, served = keyed.cluster.kubectl("exec", engine, "--", "python3", "-c", TLS_PROBE).split("\n", 1)
    return plain, served.strip()


def test_pool_gets_tls_while_it_serves(keyed: Installation, authority: Path) -> None:
    (old,) = keyed.pods("keyed")
    keyed.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(certificate(authority)))
    keyed.patch("keyed", {"engine": {"tls": {"secretName": "keyed-tls"}}})
    answers = []

    def replaced() -> bool:
        answers.append(tokens(keyed, limit_s=60))
        return old not in keyed.pods("keyed")

    keyed.cluster.wait_for(replaced, limit_s=180, what="an engine with TLS")
    answers += [tokens(keyed, limit_s=60) for _ in range(5)]
    assert set(answers) == {TOKEN_LIMIT}
    (new,) = keyed.pods("keyed")
    assert probed(keyed, new) == ("closed", (authority / "tls.crt").read_text().strip())


def test_renewed_certificate_is_served_by_the_same_engine(keyed: Installation, authority: Path) -> None:
    """The kubelet brings it into the pod when it next looks after it: here after seconds, by default within two
    minutes."""
    (engine,) = keyed.pods("keyed")
    keyed.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(certificate(authority)))
    renewed, answers = (authority / "tls.crt").read_text().strip(), []

    def served() -> bool:
        answers.append(tokens(keyed, limit_s=60))
        return probed(keyed, engine) == ("closed", renewed)

    keyed.cluster.wait_for(served, limit_s=300, what="renewed certificate")
    answers += [tokens(keyed, limit_s=60) for _ in range(5)]
    assert set(answers) == {TOKEN_LIMIT}
    assert keyed.pods("keyed") == [engine]
    (container,) = keyed.cluster.get("pod", engine)["status"]["containerStatuses"]
    assert container["restartCount"] == 0


def test_idle_pool_sleeps_and_the_next_request_waits_for_its_engine(keyed: Installation) -> None:
    keyed.patch("keyed", {"scaling": {"min": 0, "max": 1, "idleDelay": "10s"}})
    keyed.wait_pods("keyed", 0, limit_s=180)
    shown = keyed.cluster.get("enginepool", "keyed")["status"]["conditions"]
    assert "ScaledToZero" in {each["reason"] for each in shown}
    assert tokens(keyed, limit_s=180) == TOKEN_LIMIT
    # The way out knows the key and speaks TLS, too.
    events = keyed.cluster.get("events")["items"]
    reasons = {each["reason"] for each in events if each["involvedObject"]["name"].startswith("engine-keyed")}
    assert "Killing" in reasons
    assert "FailedPreStopHook" not in reasons
