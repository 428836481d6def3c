"""Container images for tests, made by buildah without a registry: the base from Debian packages, ours from Dockerfiles.

The base and buildah's layers are kept in the cache folder of environments.py, so only what changed is built again.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from environments import ROOT, cache_folder, digest, exclusive, say

TOOLS = ("buildah", "mmdebstrap")
BASE = "localhost/python:3.11"
_SUITE = "bookworm"
_PACKAGES = (
    "base-files,ca-certificates,coreutils,dash,libc-bin,libgcc-s1,libnuma1,libstdc++6,media-types,netbase,"
    "python3,python3-pip,tzdata,util-linux"
)
_MOST_LAYERS = 300
"""Of builds before, of which nobody knows whether they are still of use: then all are removed."""
_LEFT_OUT = ("doc", "info", "locale", "man")


def missing_here() -> str | None:
    """Why images cannot be made on this machine, or None."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"images need {', '.join(missing)}: apt-get install {' '.join(TOOLS)}" if missing else None


class Images:
    """Builds images and writes them to archives in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = cache_folder() / "images"
        self._store.mkdir(exist_ok=True)

    def program(self, program: Path, *, tag: str) -> Path:
        """Archive of an image with one static program and nothing else."""
        context = Path(tempfile.mkdtemp(dir=self._folder))
        shutil.copy(program, context / program.name)
        recipe = f'FROM scratch\nCOPY {program.name} /\nUSER 65532:65532\nENTRYPOINT ["/{program.name}"]\n'
        (context / "Dockerfile").write_text(recipe)
        return self._build(context, context / "Dockerfile", tag=tag)

    def from_dockerfile(self, dockerfile: Path, *, tag: str, arguments: dict[str, str] | None = None) -> Path:
        """Archive of an image that a Dockerfile of the repository describes, on the base made here."""
        self._make_base()
        return self._build(ROOT, dockerfile, tag=tag, arguments={"BASE": BASE, **(arguments or {})})

    def _build(self, context: Path, dockerfile: Path, *, tag: str, arguments: dict[str, str] | None = None) -> Path:
        given = [f"--build-arg={name}={value}" for name, value in (arguments or {}).items()]
        # The host's network and authorities, because pip asks the same registry as outside.
        options = ["--layers", "--isolation=chroot", "--network=host", "--volume=/etc/ssl/certs:/etc/ssl/certs:ro"]
        with exclusive(self._store / "builds.lock"):
            self._buildah("bud", "--quiet", *options, *given, f"--file={dockerfile}", f"--tag={tag}", str(context))
            self._leave_nothing_mounted()
        archive = self._folder / f"{tag.rsplit('/')[-1].replace(':', '-')}.tar"
        archive.unlink(missing_ok=True)
        self._buildah("push", "--quiet", "--disable-compression", tag, f"oci-archive:{archive}:{tag}")
        return archive

    def _make_base(self) -> None:
        """Debian with Python and pip, unpacked only: no maintainer script is run."""
        key = digest(_PACKAGES.encode(), _SUITE.encode())
        archive = self._store / f"base-{key}.tar"
        with exclusive(self._store / "base.lock"):
            if not archive.exists():
                say(f"making the base of images in {archive} (once per machine)")
                building = archive.with_suffix(".building")
                left_out = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _LEFT_OUT]
                command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={_PACKAGES}", "--format=tar"]
                _succeed([*command, *left_out, _SUITE, str(building), *_apt_sources()])
                building.rename(archive)
            if len(self._buildah("images", "--all", "--quiet").split()) > _MOST_LAYERS:
                self._buildah("rmi", "--all", "--force")
            if key not in self._buildah("images", "--noheading", "--format={{.Tag}}", "--filter=label=base-key"):
                container = self._buildah("from", "scratch").strip()
                self._buildah("add", "--quiet", container, str(archive), "/")
                self._buildah("config", f"--label=base-key={key}", container)
                self._buildah("commit", "--quiet", "--rm", container, BASE)
                self._buildah("tag", BASE, f"localhost/base:{key}")

    def _leave_nothing_mounted(self) -> None:
        """Buildah keeps the container of a build's first stage mounted, and the folder of its layers."""
        self._buildah("rm", "--all")
        layers = self._store / "store" / "overlay"
        if layers.is_mount():
            _succeed(["umount", str(layers)])

    def _buildah(self, *arguments: str) -> str:
        store = ["--root", f"{self._store}/store", "--runroot", f"{self._store}/run", "--storage-driver=overlay"]
        return _succeed(["buildah", *store, *arguments])


def _apt_sources() -> list[str]:
    """Where this machine's apt gets packages from."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("debian.sources"))]
    return [str(file) for file in files if file.exists()]


def _succeed(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout
