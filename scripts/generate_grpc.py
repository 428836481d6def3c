"""Makes the Python modules of gateway/proserve_gateway/rpc from its .proto: `python scripts/generate_grpc.py [FOLDER]`.

The modules are committed, so that nobody needs protoc to install; a test fails when they differ from the .proto.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

RPC = Path(__file__).parents[1] / "gateway" / "proserve_gateway" / "rpc"
PROTO = "proserve/v1/inference.proto"
MODULES = ("inference_pb2.py", "inference_pb2.pyi", "inference_pb2_grpc.py")


def generate(folder: Path) -> None:
    """Write the modules into `folder`."""
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [f"--{kind}_out={scratch}" for kind in ("python", "pyi", "grpc_python")]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{RPC}", *outputs, PROTO], check=True)
        for name in MODULES:
            made = (Path(scratch) / "proserve" / "v1" / name).read_text()
            # protoc names the module after the .proto's path, which is not where we keep it.
            (folder / name).write_text(made.replace("from proserve.v1 import", "from proserve_gateway.rpc import"))


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else RPC)
