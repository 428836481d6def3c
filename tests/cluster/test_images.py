"""The image of operator and gateway, as a scanner of a registry sees it."""

import re

import pytest

from environments import ROOT
from image_archive import ImageContents, image_contents
from images import BASE
from installation import Installation
from single_node import SingleNode

MOST_MB = 120
"""It has 101. A dependency that makes everybody pull much more should be noticed."""


@pytest.fixture(scope="module")
def image(installation: Installation, node: SingleNode) -> ImageContents:
    name = installation.image.rpartition("/")[2].replace(":", "-")
    return image_contents(node.folder / f"{name}.tar")


def test_image_is_not_root_and_says_what_it_is(image: ImageContents) -> None:
    assert image.config["User"] == "65532:65532"
    labels = image.config["Labels"]
    assert labels["org.opencontainers.image.base.name"] == BASE
    for name in ("title", "description", "licenses", "version", "revision"):
        assert labels[f"org.opencontainers.image.{name}"]


def test_image_lists_its_parts_which_are_those_pinned(image: ImageContents) -> None:
    pinned = set(re.findall(r"^([a-z0-9.-]+==\S+)", (ROOT / "requirements/image.lock").read_text(), re.MULTILINE))
    found = [re.fullmatch(r"opt/packages/([^/]+)-([^/-]+)\.dist-info/METADATA", name) for name in image.files]
    listed = {f"{re.sub('[-_.]+', '-', part[1]).lower()}=={part[2]}" for part in found if part}
    assert "kopf" in {part.partition("==")[0] for part in listed}
    assert listed <= pinned


def test_image_is_small(image: ImageContents) -> None:
    assert image.pulled_bytes < MOST_MB * 10**6
