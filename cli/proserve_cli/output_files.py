"""Files that commands write for a long time: refused before the work begins, not after it."""

from pathlib import Path

from proserve_cli.failures import wrong_usage


def check_output_file(option: str, file: Path | None) -> None:
    """Exit code 2 if there can't be such a file; None: none is wanted."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise wrong_usage(f"{option}: expected a file in a folder that exists, got {file}")
