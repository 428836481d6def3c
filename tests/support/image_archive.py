"""What is in an image: its configuration and its files, read from an OCI archive."""

import json
import tarfile
from pathlib import Path
from typing import Any

import msgspec


class ImageContents(msgspec.Struct, frozen=True, kw_only=True):
    """Of an image with one platform and no deleted files."""

    config: dict[str, Any]
    files: frozenset[str]
    pulled_bytes: int
    """Size of its layers as they are stored."""


def image_contents(archive: Path) -> ImageContents:
    with tarfile.open(archive) as parts:

        def part(descriptor: dict[str, Any]) -> Any:
            return parts.extractfile("blobs/" + descriptor["digest"].replace(":", "/"))

        index = parts.extractfile("index.json")
        assert index is not None
        manifest = json.load(part(json.load(index)["manifests"][0]))
        files: set[str] = set()
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=part(layer)) as stored:
                files.update(member.name for member in stored)
        return ImageContents(
            config=json.load(part(manifest["config"]))["config"],
            files=frozenset(files),
            pulled_bytes=sum(layer["size"] for layer in manifest["layers"]),
        )
