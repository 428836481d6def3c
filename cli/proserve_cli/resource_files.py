"""The `-f FILE...` option: resource files, read and checked, with everything that is wrong listed at once."""

import logging
from collections.abc import Sequence
from pathlib import Path

from proserve_cli.failures import wrong_usage
from proserve_core.resources import ResourceErrors, Resources, parse_resources, unenforced

logger = logging.getLogger(__name__)


class UnreadableError(ValueError):
    """Files can't be read; the message lists them."""


def load_resources(files: Sequence[Path]) -> Resources:
    """The resources of all files together, checked.

    Raises:
        ValueError: they can't be used; the message lists everything that is wrong.
    """
    resources = parse_resources(_texts(files), require_pools=True, require_tenants=True)
    for line in unenforced(resources):
        logger.warning("%s", line)
    return resources


def read_resources(files: Sequence[Path]) -> Resources:
    """`load_resources`; exit code 2 with every error if they can't be used."""
    try:
        return load_resources(files)
    except (ResourceErrors, UnreadableError) as errors:
        raise wrong_usage(errors) from errors


def read_classes(file: Path) -> Resources:
    """The resources of a file of PriorityClass documents; exit code 2 with every error if it can't be used."""
    try:
        return parse_resources(_texts([file]))
    except UnreadableError as error:
        raise wrong_usage(error) from error
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
        raise UnreadableError(unreadable[0])
    if unreadable:
        raise UnreadableError("\n".join(["resource files:", *(f"  - {line}" for line in unreadable)]))
    return texts
