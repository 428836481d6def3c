"""The committed modules are what protoc makes of the .proto."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_generated_modules_are_up_to_date(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("generate_grpc", ROOT / "scripts" / "generate_grpc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate_grpc"] = module
    spec.loader.exec_module(module)
    module.generate(tmp_path)
    for name in module.MODULES:
        committed = (module.RPC / name).read_text()
        assert (tmp_path / name).read_text() == committed, f"{name}: run python scripts/generate_grpc.py"
