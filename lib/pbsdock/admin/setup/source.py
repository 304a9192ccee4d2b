"""A checkout that is to be installed."""

from __future__ import annotations

import configparser
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from pbsdock.admin.setup import first_process, spank
from pbsdock.admin.setup.errors import SetupError
from pbsdock.admin.setup.places import Places


@dataclass(frozen=True, slots=True)
class Source:
    """The directory where install.sh lies."""

    directory: Path

    @property
    def version(self) -> str:
        """The version in setup.cfg. Raises SetupError."""
        return self._metadata()["version"]

    @property
    def lock(self) -> Path:
        """The lock file of the packages the program needs."""
        return self.directory / "lock/run.txt"

    @property
    def build_lock(self) -> Path:
        """The lock file of the build tools for packages without a wheel."""
        return self.directory / "lock/build.txt"

    @property
    def package(self) -> Path:
        """The directory of the package pbsdock."""
        return self.directory / "lib/pbsdock"

    @property
    def first_process(self) -> Path:
        """What the programs in C are compiled from."""
        return self.directory / "init"

    def hook(self, name: str) -> str:
        """A hook's text, with its marks."""
        return (self.directory / "hooks" / name).read_text()

    def etc(self, name: str) -> str:
        """One of the files for the host's services, or the commented configuration."""
        return (self.directory / "etc" / name).read_text()

    def _metadata(self) -> configparser.SectionProxy:
        parser = configparser.ConfigParser()
        parser.read(self.directory / "setup.cfg")
        try:
            return parser["metadata"]
        except KeyError:
            raise SetupError(f"{self.directory} is not a checkout of pbsdock: it has no setup.cfg") from None

    def files(self) -> list[Path]:
        """All files that decide what is installed, without compiled ones."""
        found = [path for top in ("lib/pbsdock", "hooks", "etc", "share") for path in (self.directory / top).rglob("*")]
        compiled = {self.package / program.name for program in first_process.PROGRAMS}
        found = [path for path in found if path.is_file() and "__pycache__" not in path.parts and path not in compiled]
        sources = {name for program in first_process.PROGRAMS for name in program.sources}
        found += [self.first_process / name for name in sorted({*sources, spank.SOURCE})]
        return sorted([*found, self.lock, self.build_lock, self.directory / "setup.cfg"])

    def identity(self, places: Places, instance: str, python: Path) -> str:
        """VERSION-HASH, where HASH covers all files and options of the installation."""
        digest = hashlib.sha256()
        for path in self.files():
            digest.update(
                f"{path.relative_to(self.directory)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
            )
        interpreter = f"{python} {sys.version_info.major}.{sys.version_info.minor}"
        digest.update(f"{interpreter} {places.mom_priv} {places.prefix} {places.root} {instance}".encode())
        digest.update(f" {places.slurm_conf}".encode() if places.slurm_conf is not None else b"")
        return f"{self.version}-{digest.hexdigest()[:12]}"
