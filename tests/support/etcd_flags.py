"""How a single etcd is run for a test: quick, and with no care for what a power failure would do."""

from pathlib import Path


def etcd_flags(data: Path, *, port: int, peer_port: int) -> list[str]:
    """On loopback."""
    clients, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    return [
        "--name=test",
        f"--data-dir={data}",
        "--unsafe-no-fsync",
        # Elections take ten heartbeats; a single member need not wait long for others.
        "--heartbeat-interval=20",
        "--election-timeout=200",
        "--log-level=warn",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=test={peers}",
    ]
