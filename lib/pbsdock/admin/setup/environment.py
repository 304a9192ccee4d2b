"""A version's virtual environment: exactly the packages of the lock, with their hashes checked, and pbsdock itself.

Everything is compiled at installation, so that root's processes never write compiled files.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pbsdock.admin.setup import first_process
from pbsdock.admin.setup.errors import SetupError
from pbsdock.admin.setup.source import Source
from pbsdock.admin.setup.versions import Version

# As pip words it: NAME==VERSION from ADDRESS (from -r FILE (line N)):
_ODD = re.compile(r"^ *[A-Za-z0-9._-]*==\S* from \S*/([^ #/\n]*)[# ]", re.MULTILINE)
_LACKING = re.compile(r"^ERROR: No matching distribution found for (\S*)", re.MULTILINE)


def fetch(python: Path, source: Source, to: Path) -> int:
    """Fill *to* with what the lock names, for hosts without an index; returns how many files. Raises SetupError."""
    with _work() as work:
        _Pip(python, work, None).fetch(source)
        to.mkdir(parents=True, exist_ok=True)
        files = list((work / "files").iterdir())
        for file in files:
            shutil.copy(file, to)
    with suppress(SetupError):  # the hosts compile it themselves, or say that they cannot
        for program in first_process.PROGRAMS:
            carried = to / first_process.carried(source.first_process, program)
            first_process.compile_to(carried, source.first_process, program)
    return len(files)


def make(version: Version, python: Path, source: Source, wheels: Path | None, old: Version | None) -> str:
    """Make the environment of *version*, which has none. Raises SetupError.

    Returns why containers get no first process, or "". Without *wheels* the packages of *old* are taken if
    its lock is the same and they are as they were installed.
    """
    if old is not None and wheels is None and _is_reusable(old, python, source):
        _copy(old, version)
    else:
        _fill(version, python, source, wheels)
    lacking = _put_program(source, version.library, wheels)
    shutil.copyfile(source.lock, version.home / "lock.txt")
    _compile(version)
    # What a wheel, an umask of the index's or an older tool has left open to others.
    _run(["chmod", "-R", "go-w", str(version.home / "venv")])
    return lacking


def _fill(version: Version, python: Path, source: Source, wheels: Path | None) -> None:
    with _work() as work:
        pip = _Pip(python, work, wheels)
        pip.fetch(source)
        _make_venv(python, version.home / "venv", "--without-pip")
        pip.install(source, version.python)


def _make_venv(python: Path, where: Path, *options: str) -> None:
    if _run([str(python), "-m", "venv", *options, str(where)]).returncode:
        raise SetupError(f"{python} cannot make a virtual environment; apt-get install python3-venv")


@contextmanager
def _work() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pbsdock-setup.") as made:
        yield Path(made)


def _run(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        cwd="/",
    )


class _Pip:
    """pip in a temporary environment, restricted to the files of the lock."""

    def __init__(self, python: Path, work: Path, wheels: Path | None) -> None:
        _make_venv(python, work / "venv")
        self.python = work / "venv/bin/python3"
        self.work = work
        self.wheels = wheels

    def _call(self, *arguments: str) -> None:
        # PIP_USE_PEP517 not as an option: newer ones know nothing else, and may not know the option.
        done = _run(
            [str(self.python), "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments],
            PIP_USE_PEP517="1",
            PYTHONPATH=str(self.work / "tools"),
        )
        if done.returncode:
            raise SetupError(says(done.stdout, self.wheels))

    def fetch(self, source: Source) -> None:
        """All that the lock names into ``files``. What is to be built is built with the tools, which come first."""
        get = ["download", "--require-hashes", "--no-build-isolation", "-d", str(self.work / "files")]
        if self.wheels is not None:
            get += ["--no-index", "--find-links", str(self.wheels)]
        self._call(*get, "-r", str(source.build_lock))
        self._call(*self._put(), "--target", str(self.work / "tools"), "-r", str(source.build_lock))
        self._call(*get, "-r", str(source.lock))

    def install(self, source: Source, python: Path) -> None:
        """What was fetched, into the environment of *python*."""
        self._call("--python", str(python), *self._put(), "--no-build-isolation", "-r", str(source.lock))

    def _put(self) -> list[str]:
        files = str(self.work / "files")
        return ["install", "--require-hashes", "--no-index", "--no-deps", "--no-compile", "--find-links", files]


def says(log: str, wheels: Path | None) -> str:
    """The error in pip's log, as a sentence. Pure."""
    odd, lacking = _ODD.search(log), _LACKING.search(log)
    if odd and "DO NOT MATCH THE HASHES" in log:
        return (
            f"{odd[1]} is not the file whose sha256 is in lock/run.txt or lock/build.txt; it was exchanged or damaged, "
            "nothing was installed"
        )
    if lacking and wheels is not None:
        return f"{wheels} has no {lacking[1]} for this Python; fill it with install.sh --fetch, nothing was installed"
    errors = [line for line in log.splitlines() if line.startswith("ERROR")] or log.splitlines()[-3:]
    return "\n".join(
        [
            *errors,
            "pip could not fetch what pbsdock needs; without a package index use --wheels; nothing was installed",
        ]
    )


# -- the packages of a version that is there already -----------------------------------------------------------------


def _is_reusable(old: Version, python: Path, source: Source) -> bool:
    try:
        same = (old.home / "lock.txt").read_bytes() == source.lock.read_bytes()
        config = (old.home / "venv/pyvenv.cfg").read_text()
    except OSError:
        return False
    same = same and f"home = {python.parent}\n" in config and old.python.exists()
    return same and not old.changed() and not _run([str(old.command), "doctor", "packages"]).returncode


def _copy(old: Version, new: Version) -> None:
    """Copies, not hard links: a change of a file in one version must not change another version."""
    shutil.copytree(old.home / "venv", new.home / "venv", symlinks=True)
    shutil.rmtree(new.library / "pbsdock")
    for directory in new.library.glob("pbsdock-*.dist-info"):
        shutil.rmtree(directory)
    texts = [path for path in (new.home / "venv/bin").iterdir() if path.is_file() and not path.is_symlink()]
    moved = {}
    for path in [*texts, new.home / "venv/pyvenv.cfg"]:
        text = path.read_bytes()
        if (changed := text.replace(f"{old.home}/".encode(), f"{new.home}/".encode())) != text:
            path.write_bytes(changed)
            moved[f"../../../bin/{path.name}"] = changed
    for record in new.library.glob("*.dist-info/RECORD"):
        rows = list(csv.reader(io.StringIO(record.read_text(encoding="utf-8"))))
        if any(row and row[0] in moved for row in rows):
            _write_record(record, [_row(row[0], moved[row[0]]) if row and row[0] in moved else row for row in rows])


def _row(name: str, data: bytes) -> list[str]:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return [name, f"sha256={digest}", str(len(data))]


def _write_record(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


# -- pbsdock itself ---------------------------------------------------------------------------------------------------


def _put_program(source: Source, library: Path, wheels: Path | None) -> str:
    """Install pbsdock itself by copying: it is plain Python but for the programs in C.

    Returns why the first process of containers cannot be had, or "". Core metadata and RECORD as packaging.python.org
    specifies them.
    """
    shutil.copytree(source.package, library / "pbsdock", ignore=shutil.ignore_patterns("__pycache__"))
    compiled = {library / "pbsdock" / program.name: program for program in first_process.PROGRAMS}
    for path in compiled:
        shutil.rmtree(path.parent, ignore_errors=True)  # whatever an older source was compiled to
    lacking = [first_process.provide(path, source.first_process, wheels, kind) for path, kind in compiled.items()]
    about = library / f"pbsdock-{source.version}.dist-info"
    about.mkdir()
    shutil.copyfile(source.directory / "LICENSE", about / "LICENSE")
    (about / "INSTALLER").write_text("install.sh\n")
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: pbsdock\nVersion: {source.version}\nLicense: Apache-2.0\n"
        "Requires-Python: >=3.11\n"
    )
    files = [path for top in (library / "pbsdock", about) for path in sorted(top.rglob("*")) if path.is_file()]
    for path in files:
        path.chmod(0o755 if path in compiled else 0o644)
    rows = [_row(str(path.relative_to(library)), path.read_bytes()) for path in files]
    _write_record(about / "RECORD", [*rows, [f"{about.name}/RECORD", "", ""]])
    return next(filter(None, lacking), "")


def _compile(version: Version) -> None:
    # Some packages carry files for other Pythons, which do not compile and are not imported.
    _run([str(version.python), "-m", "compileall", "-q", "-j", "0", str(version.library)])
