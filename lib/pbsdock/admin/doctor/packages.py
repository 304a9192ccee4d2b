"""``pbsdock doctor packages``: whether the packages of this instance are those of the lock, as they were installed, and
without a vulnerability that was known when this release was made. No network is asked.

It finds accidental changes, not an attacker who is root: root can change the lists too.
"""

from __future__ import annotations

import base64
import hashlib
import marshal
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pbsdock.admin.doctor import advisories
from pbsdock.admin.doctor.report import Finding
from pbsdock.core.paths import Paths

_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)")
_MOST = 20  # of one kind: more tell nothing more
_BESIDES = frozenset({"pbsdock"})


def examine(paths: Paths) -> Iterator[Finding]:
    """Look at all of an instance's packages. Raises OSError where the lock or the environment is not there."""
    locked = pins((paths.home / "lock.txt").read_text(encoding="ascii"))
    installed = installed_in(paths.lib)
    yield from judge_lock(locked, installed)
    yield from judge_files(paths.lib)
    yield from judge_advisories(installed)


def pins(lock: str) -> dict[str, str]:
    """Name -> version of a lock file's text. Pure."""
    found = (_PIN.match(line) for line in lock.splitlines())
    return {canonicalize_name(pin[1]): pin[2] for pin in found if pin}


def judge_lock(locked: Mapping[str, str], installed: Mapping[str, str]) -> Iterator[Finding]:
    """Whether exactly what is locked is installed. Pure."""
    wrong = False
    for name in sorted({*locked, *installed} - _BESIDES):
        want, have = locked.get(name), installed.get(name)
        if want == have:
            continue
        wrong = True
        if have is None:
            yield Finding("packages", "lock", False, f"{name} {want} is missing; run install.sh again")
        elif want is None:
            yield Finding("packages", "lock", False, f"{name} {have} is not in the lock; run install.sh again")
        else:
            yield Finding("packages", "lock", False, f"{name} is {have} and the lock has {want}; run install.sh again")
    if not wrong:
        yield Finding("packages", "lock", True, f"the {len(locked)} packages of the lock, and no others")


def judge_advisories(installed: Mapping[str, str]) -> Iterator[Finding]:
    """Whether an installed version has a known vulnerability. Pure."""
    table = advisories.load(advisories.PACKAGES)
    well = True
    for package in sorted({row.component for row in table} & set(installed)):
        text = installed[package]
        try:
            version = Version(text)
        except InvalidVersion:
            well = False
            yield Finding("packages", "advisories", False, f"{package} {text!r} is not a version; run install.sh again")
            continue
        for row in table:
            if row.component == package and row.affects(version):
                well = False
                has = f"{package} {text} has {row.name} ({row.what})"
                yield Finding(
                    "packages", "advisories", False, f"{has}; {row.fixed[-1]} has not: install a newer pbsdock"
                )
    if well:
        yield Finding("packages", "advisories", True, f"none of the {len(table)} known advisories")


def installed_in(site: Path) -> dict[str, str]:
    """Name -> version of what is installed in *site*."""
    return {canonicalize_name(package.metadata["Name"]): package.version for package in distributions(path=[str(site)])}


def judge_files(site: Path) -> Iterator[Finding]:
    """Whether every file in *site* belongs to a package and has the hash in its RECORD. Raises OSError."""
    listed: set[str] = set()
    problems: list[str] = []
    packages = distributions(path=[str(site)])
    for package in sorted(packages, key=lambda package: canonicalize_name(package.metadata["Name"])):
        problems += _changed(package, listed)
    problems += _besides(str(site), listed)
    for problem in problems[:_MOST]:
        yield Finding("packages", "files", False, problem)
    if len(problems) > _MOST:
        yield Finding("packages", "files", False, f"and {len(problems) - _MOST} more; run install.sh again")
    if not problems:
        yield Finding("packages", "files", True, f"{len(listed)} files as they were installed, and no others")


def _changed(distribution: Distribution, listed: set[str]) -> Iterator[str]:
    """Compare with RECORD, which has no hash for itself and for what was compiled here."""
    package = f"{distribution.metadata['Name']} {distribution.version}"
    if not distribution.files:
        yield f"{package} has no list of its files; run install.sh again"
    for entry in distribution.files or []:
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
    """Files of no package. Compiled files have no hash in RECORD: they must be what their source compiles to."""
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
