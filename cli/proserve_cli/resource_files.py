"""The `-f FILE...` option: resource files, read and checked, with everything that is wrong listed at once."""

import logging
from collections.abc import Sequence
from pathlib import Path

from proserve_cli.failures import wrong_usage
from proserve_core.resources import ResourceErrors, Resources, parse_resources, unenforced

logger = logging.getLogger(__name__)


def read_resources(files: Sequence[Path]) -> Resources:
    """The resources of all files together; exit code 2 with every error if they can't be used."""
    texts = _texts(files)
    try:
        resources = parse_resources(texts, require_pools=True, require_tenants=True)
    except ResourceErrors as errors:
        raise wrong_usage(errors) from errors
    for line in unenforced(resources):
        logger.warning("%s", line)
    return resources


def read_classes(file: Path) -> Resources:
    """The resources of a file of PriorityClass documents; exit code 2 with every error if it can't be used."""
    try:
        return parse_resources(_texts([file]))
    except ResourceErrors as errors:
        raise wrong_usage(errors.errors[0] if len(errors.errors) == 1 else errors) from errors


def _texts(files: Sequence[Path]) -> dict[str, str]:
    texts: dict[str, str] = {}
    unreadable: list[str] = []
    for file in files:
        try:
            texts[str(file)] = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            unreadable.append(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}")
    if len(unreadable) == 1:
        raise wrong_usage(unreadable[0])
    if unreadable:
        raise wrong_usage("\n".join(["resource files:", *(f"  - {line}" for line in unreadable)]))
    return texts
