"""`vllm serve` with the ProServe scheduler, run by the engine environment's interpreter:
`python -m proserve_engine.vllm.launch serve MODEL ...`.

Three things come before vLLM's own command line: the seams are checked, so an unsuitable vLLM stops before it loads
anything; a `generated://` model is made; and this process takes the seat of `vllm`.
"""

import sys

from proserve_engine.tiny_model import ModelError, resolve_model
from proserve_engine.vllm.plugin import register
from proserve_engine.vllm.seams import SeamError


def main() -> None:
    """Check, resolve, and hand over to vLLM. Exit status 2 when that is impossible."""
    try:
        register()
        sys.argv[1:] = [resolve_model(argument) for argument in sys.argv[1:]]
    except (SeamError, ModelError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error

    from vllm.entrypoints.cli.main import main as vllm_main

    sys.argv[0] = "vllm"
    vllm_main()


if __name__ == "__main__":
    main()
