"""Writes the CustomResourceDefinitions of charts/proserve-crds from `proserve_core.resources`; part of `make docs`.

With `--check` it only says what is out of date.
"""

import sys
from pathlib import Path

from proserve_core.resources.crds import definition_files

FOLDER = Path(__file__).resolve().parent.parent / "charts" / "proserve-crds" / "templates"


def main(arguments: list[str]) -> int:
    outdated = {
        path: text
        for name, text in definition_files().items()
        if not (path := FOLDER / name).exists() or path.read_text() != text
    }
    for path, text in outdated.items():
        if "--check" in arguments:
            print(f"{path.name} is out of date: run make docs")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.name}")
    return 1 if outdated and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
