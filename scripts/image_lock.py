"""Pin what the images install: requirements/image.lock, with the versions of requirements/dev.lock, which are tested.

`requirements/image-build.lock` is what builds proserve's own wheel in them.
"""

import sys
from pathlib import Path

from environments import DEV_LOCK, ROOT, EnvironmentSetupError, run, say, uv

IMAGE_LOCK = ROOT / "requirements" / "image.lock"
BUILD_INPUT = ROOT / "requirements" / "image-build.in"
BUILD_LOCK = ROOT / "requirements" / "image-build.lock"
EXTRAS = ("--extra=gateway", "--extra=operator", "--extra=emulator")


def main() -> int:
    command: list[str | Path] = [
        uv(),
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
    ]
    command += ["--no-header", "--constraint", DEV_LOCK]
    try:
        run([*command, "pyproject.toml", *EXTRAS, "-o", IMAGE_LOCK])
        run([*command, BUILD_INPUT, "-o", BUILD_LOCK])
    except EnvironmentSetupError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
