"""``pbsdock doctor packages``: whether the packages of this instance are those of the lock, as they were installed, and
without the holes that were known when this release was made. No network is asked.

It finds accidents, hands that meant well, and what was exchanged carelessly. Whoever is root here can make the lists
agree with anything.
"""

from __future__ import annotations

import base64
import hashlib
import marshal
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from pbsdock.admin.doctor.report import Judged
from pbsdock.core.paths import Paths

_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)")
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")
_MOST = 20  # of one kind: more tell nothing more
_BESIDES = frozenset({"pbsdock"})


@dataclass(frozen=True, slots=True)
class Hole:
    """An advisory on a package, and the first version without it."""

    package: str
    fixed: str
    name: str
    what: str


# From public advisories, as they were at the release. What lies on a path that pbsdock does not take (a protocol or a
# helper it leaves alone) is here all the same: a lock that has it was not looked after.
HOLES = (
    Hole("certifi", "2024.7.4", "CVE-2023-37920, CVE-2024-39689", "authorities that are trusted no more"),
    Hole("idna", "3.14", "CVE-2024-3651, CVE-2026-45409", "a host's name that takes minutes to encode"),
    Hole("psutil", "5.6.6", "CVE-2019-18874", "memory freed twice"),
    Hole("requests", "2.31.0", "CVE-2023-32681", "a proxy's password sent on to the server"),
    Hole("requests", "2.32.4", "CVE-2024-35195, CVE-2024-47081", "certificates unchecked; another host's password"),
    Hole("urllib3", "2.2.2", "CVE-2023-43804, CVE-2023-45803, CVE-2024-37891", "secrets sent along with a redirection"),
    Hole("urllib3", "2.5.0", "CVE-2025-50181", "redirections followed that were switched off"),
    Hole("urllib3", "2.6.3", "CVE-2025-66418, CVE-2025-66471, CVE-2026-21441", "answers that unpack without an end"),
    Hole("urllib3", "2.8.0", "CVE-2026-97687, CVE-2026-97688, CVE-2026-97689", "answers that are read without an end"),
)


def examine(paths: Paths) -> Iterator[Judged]:
    """Look at all of an instance's packages. Raises OSError where the lock or the environment is not there."""
    locked = pins((paths.home / "lock.txt").read_text(encoding="ascii"))
    installed = installed_in(paths.lib)
    yield from judge_lock(locked, installed)
    yield from judge_files(paths.lib)
    yield from judge_holes(installed)


def normal(name: str) -> str:
    """The one spelling of a package's name that indexes compare (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: str) -> dict[str, str]:
    """Name -> version of a lock file's text. Pure."""
    found = (_PIN.match(line) for line in lock.splitlines())
    return {normal(one[1]): one[2] for one in found if one}


def before(version: str, fixed: str) -> bool:
    """Whether *version* is older than *fixed*, by the numbers they begin with; a pre-release counts as its release."""
    return _numbers(version) < _numbers(fixed)


def _numbers(version: str) -> tuple[int, ...]:
    found = _NUMBERS.match(version)
    return tuple(int(one) for one in found[0].split(".")) if found else ()


def judge_lock(locked: Mapping[str, str], installed: Mapping[str, str]) -> Iterator[Judged]:
    """Whether exactly what is locked is installed. Pure."""
    wrong = False
    for name in sorted({*locked, *installed} - _BESIDES):
        want, have = locked.get(name), installed.get(name)
        if want == have:
            continue
        wrong = True
        if have is None:
            yield Judged("packages", "lock", False, f"{name} {want} is missing; run install.sh again")
        elif want is None:
            yield Judged("packages", "lock", False, f"{name} {have} is not in the lock; run install.sh again")
        else:
            yield Judged("packages", "lock", False, f"{name} is {have} and the lock has {want}; run install.sh again")
    if not wrong:
        yield Judged("packages", "lock", True, f"the {len(locked)} packages of the lock, and no others")


def judge_holes(installed: Mapping[str, str]) -> Iterator[Judged]:
    """Whether an installed version has one of the known holes. Pure."""
    found = [one for one in HOLES if one.package in installed and before(installed[one.package], one.fixed)]
    for one in found:
        have = f"{one.package} {installed[one.package]} has {one.name} ({one.what})"
        yield Judged("packages", "advisories", False, f"{have}; {one.fixed} has not: install a newer pbsdock")
    if not found:
        yield Judged("packages", "advisories", True, f"none of the {len(HOLES)} known holes")


def installed_in(site: Path) -> dict[str, str]:
    """Name -> version of what is installed in *site*."""
    return {normal(one.metadata["Name"]): one.version for one in distributions(path=[str(site)])}


def judge_files(site: Path) -> Iterator[Judged]:
    """Whether every file in *site* is as its package's list says, and on such a list."""
    listed: set[str] = set()
    problems: list[str] = []
    for one in sorted(distributions(path=[str(site)]), key=lambda one: normal(one.metadata["Name"])):
        problems += _changed(one, listed)
    problems += _besides(str(site), listed)
    for problem in problems[:_MOST]:
        yield Judged("packages", "files", False, problem)
    if len(problems) > _MOST:
        yield Judged("packages", "files", False, f"and {len(problems) - _MOST} more; run install.sh again")
    if not problems:
        yield Judged("packages", "files", True, f"{len(listed)} files as they were installed, and no others")


def _changed(one: Distribution, listed: set[str]) -> Iterator[str]:
    """Compare with RECORD, which has no hash for itself and for what was compiled here."""
    package = f"{one.metadata['Name']} {one.version}"
    if not one.files:
        yield f"{package} has no list of its files; run install.sh again"
    for entry in one.files or []:
        path = os.path.normpath(str(entry.locate()))
        if entry.hash is None and path.endswith(".pyc"):
            continue
        listed.add(path)
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            yield f"{path} of {package} cannot be read ({error.strerror}); run install.sh again"
            continue
        if entry.hash is not None and entry.hash.value != _digest(entry.hash.mode, data):
            yield f"{path} of {package} is not as it was installed; run install.sh again"


def _digest(mode: str, data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.new(mode, data).digest()).decode().rstrip("=")


def _besides(site: str, listed: set[str]) -> Iterator[str]:
    """What is on no list. Compiled files are on none that says anything: they must be what their source compiles to."""
    for directory, below, files in os.walk(site):
        links = [name for name in below if os.path.islink(f"{directory}/{name}")]
        for path in (f"{directory}/{name}" for name in sorted([*files, *links])):
            if path in listed:
                continue
            if not (path.endswith(".pyc") and directory.endswith("/__pycache__")):
                yield f"{path} belongs to no package; remove it"
                continue
            source = f"{os.path.dirname(directory)}/{os.path.basename(path).partition('.')[0]}.py"
            if source not in listed:
                yield f"{path} belongs to no package's source; remove it"
            elif os.path.exists(source) and not _compiled_from(path, source):  # one that is gone is told already
                yield f"{path} is not what {os.path.basename(source)} compiles to; remove it"


def _compiled_from(compiled: str, source: str) -> bool:
    """Whether an import would get from *compiled* what *source* says (PEP 552: a header of 16 bytes, then the code)."""
    try:
        # Compared and not run; it is root's own file, which every import of the agent's would run.
        found = marshal.loads(Path(compiled).read_bytes()[16:])  # noqa: S302
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = compile(Path(source).read_bytes(), source, "exec", dont_inherit=True, optimize=0)
    except (EOFError, ValueError, TypeError, SyntaxError, OSError):
        return False
    return bool(found == expected)
