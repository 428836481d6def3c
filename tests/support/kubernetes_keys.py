"""Keys and certificates of a Kubernetes control plane for tests, made by the openssl command."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]


def make_authority(folder: Path) -> None:
    """`ca.crt` and `ca.key`; `sa.key` and `sa.pub`, which sign and verify the tokens of service accounts."""
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    _openssl(folder, "req", "-x509", *_NEW_KEY, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test-ca", *usage)
    _openssl(folder, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "sa.key")
    _openssl(folder, "pkey", "-in", "sa.key", "-pubout", "-out", "sa.pub")


def make_certificate(folder: Path, name: str, *, subject: str, addresses: Sequence[str] = ()) -> None:
    """`NAME.crt` and `NAME.key`, signed by the authority, for a server at `addresses` and for clients.

    A client's user and groups in Kubernetes are `CN` and `O` of the subject. Addresses are `IP:...` or `DNS:...`.
    """
    request = ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", subject, "-CA", "ca.crt", "-CAkey", "ca.key"]
    extensions = ["basicConstraints=CA:FALSE", "extendedKeyUsage=serverAuth,clientAuth"]
    if addresses:
        extensions.append(f"subjectAltName={','.join(addresses)}")
    added = [part for extension in extensions for part in ("-addext", extension)]
    _openssl(folder, "req", "-x509", *_NEW_KEY, *request, *added)


def kubeconfig(folder: Path, *, server: str, user: str) -> str:
    """A kubeconfig for the holder of `USER.crt`."""
    return f"""\
apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: "{server}", certificate-authority: "{folder}/ca.crt"}}}}]
users: [{{name: test, user: {{client-certificate: "{folder}/{user}.crt", client-key: "{folder}/{user}.key"}}}}]
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
current-context: test
"""


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {' '.join(arguments)}: {done.stderr}")
