"""Policy on mounts, by path components as written: ``/scratch2`` is not below ``/scratch``. Pure.

Every path is judged after the variables are filled in, because their values come from the job: PBS_O_WORKDIR is
whatever its owner made of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from pbsdock.config import MountsConfig
from pbsdock.directive import Directive, Volume
from pbsdock.errors import Refusal
from pbsdock.plan import Mount, MountOrigin
from pbsdock.policy_host import HostFacts, plain, position, some
from pbsdock.torque import Job

HOST_PATHS = ("/proc", "/sys", "/dev", "/run", "/var/run", "/var/lib/docker", "/boot")
SYSTEM = (*HOST_PATHS, "/var/spool/torque", "/var/spool/pbs")
_KERNEL = ("/proc", "/sys", "/dev")
_NO_PATH = ""
_OWN = ("/etc/passwd", "/etc/group")  # made for every container, with the job's script


def below(path: str, prefix: str) -> bool:
    """Whether *path* is *prefix* or below it, by components: ``/scratch2`` is not below ``/scratch``."""
    return PurePosixPath(path).is_relative_to(PurePosixPath(prefix))


def above(path: str) -> Iterator[str]:
    """A plain path, and every directory it lies in, from the nearest to the root."""
    while path != "/":
        yield path
        path = path.rpartition("/")[0] or "/"
    yield path


def variable_at(directive: Directive, name: str) -> str:
    """``script:4:9`` of the first option that uses the variable."""
    used = re.compile(rf"\$(?:\{{{name}\}}|{name}(?![A-Za-z0-9_]))")
    for where, _, text in _texts(directive):
        if used.search(text):
            return where
    return directive.at("")


def _texts(directive: Directive) -> Iterator[tuple[str, str, str]]:
    """Every text in which variables expand: where it stands, what it is, and the text."""
    for volume in directive.volumes:
        where = f"{directive.filename}:{volume.line}:{volume.column}"
        yield where, "--volume source", volume.source
        yield where, "--volume target", volume.target
    for index, tmpfs in enumerate(directive.tmpfs):
        yield position(directive, "tmpfs", index), "--tmpfs path", tmpfs.target
    if directive.workdir:
        yield directive.at("workdir"), "--workdir", directive.workdir
    for index, (url, path) in enumerate(directive.stage_in):
        yield position(directive, "stage-in", index), "--stage-in path", path
        yield position(directive, "stage-in", index), _NO_PATH, url
    for index, (path, url, _) in enumerate(directive.stage_out):
        yield position(directive, "stage-out", index), "--stage-out path", path
        yield position(directive, "stage-out", index), _NO_PATH, url
    for index, (_, value) in enumerate(directive.env):
        yield position(directive, "env", index), _NO_PATH, value or ""


def check_paths(job: Job, directive: Directive) -> None:
    """Check every path of an expanded directive, and that no two mounts meet in one place. Raises Refusal."""
    targets: set[str] = set()
    own = (*_OWN, job.script_path) if job.script_path else _OWN
    for where, what, text in _texts(directive):
        if what == _NO_PATH:
            continue
        if not text.startswith("/") or ".." in text.split("/") or not text.isprintable():
            raise Refusal(
                "path-not-plain",
                f"{where}: {what} {text!r} is not an absolute path without '..' and control characters",
            )
        if what in ("--volume target", "--tmpfs path"):
            _check_target(where, what, plain(text), own)
            if plain(text) in targets:
                raise Refusal("target-taken", f"{where}: {what} {text!r} is used twice; choose another")
            targets.add(plain(text))


def _check_target(where: str, what: str, target: str, own: Sequence[str]) -> None:
    kernel = [one for one in _KERNEL if below(target, one) and not (one == "/dev" and what == "--tmpfs path")]
    if target == "/" or kernel or target == "/dev":
        owner = "the kernel" if kernel or target == "/dev" else "the image"
        raise Refusal("target-not-allowed", f"{where}: {what} {target!r} belongs to {owner}; choose another")
    covered = next((one for one in own if below(one, target)), None)
    if covered is not None:
        raise Refusal(
            "target-taken", f"{where}: {what} {target!r} would cover {covered}, which every container gets; choose"
            " another",
        )  # fmt: skip


def mounts_of(job: Job, directive: Directive, settings: MountsConfig, host: HostFacts) -> tuple[Mount, ...]:
    """Every bind mount, in this order: home, work directory, TMPDIR, node file, the site's own, the volumes.

    What a directive puts in the place of one of the first four takes it. Raises Refusal.
    """
    chosen = {plain(one.target) for one in directive.volumes} | {plain(one.target) for one in directive.tmpfs}
    made = [one for one in _automatic(job, settings, host) if one.target not in chosen]
    site = [_site(entry) for entry in settings.always]
    taken = {one.target for one in site}
    made = [one for one in made if one.target not in taken]
    for index, tmpfs in enumerate(directive.tmpfs):
        _check_free(position(directive, "tmpfs", index), "--tmpfs path", plain(tmpfs.target), taken)
    volumes = []
    for volume in directive.volumes:
        where = f"{directive.filename}:{volume.line}:{volume.column}"
        _check_free(where, "--volume target", plain(volume.target), taken)
        _check_volume(job, volume, where, settings, host)
        volumes.append(_mount(volume.source, volume.target, volume.read_only, "volume", required=True, where=where))
    return (*made, *site, *volumes)


def _mount(
    source: str, target: str, read_only: bool, origin: MountOrigin, *, required: bool = False, where: str = ""
) -> Mount:
    return Mount(
        source=plain(source), target=plain(target), read_only=read_only, origin=origin, required=required, where=where
    )


def _automatic(job: Job, settings: MountsConfig, host: HostFacts) -> Iterator[Mount]:
    has_home = settings.home != "none" and _is_mountable_home(job, host)
    if has_home:
        yield _mount(job.home, job.home, settings.home == "ro", "home")
    if settings.work_dir and job.work_dir and _is_plain(job.work_dir):
        source = plain(job.work_dir)
        prefix = _prefix(source, settings.allow)
        if prefix is not None and not _closed(source, settings, host) and not (has_home and below(source, job.home)):
            yield _mount(source, source, prefix.endswith(":ro"), "workdir")
    if job.tmpdir and _is_plain(job.tmpdir):
        yield _mount(job.tmpdir, job.tmpdir, False, "tmpdir")
    if job.nodefile and _is_plain(job.nodefile):
        yield _mount(job.nodefile, job.nodefile, True, "nodefile")


def _is_plain(path: str) -> bool:
    return path.startswith("/") and path.strip("/") != "" and ".." not in path.split("/") and path.isprintable()


def _is_mountable_home(job: Job, host: HostFacts) -> bool:
    """A home of / or /run/something, as service accounts have, would open the host."""
    return _is_plain(job.home) and _system(plain(job.home), host) is None


def _site(entry: str) -> Mount:
    source, _, rest = entry.partition(":")
    target, _, mode = rest.partition(":")
    return _mount(source, target, mode == "ro", "site", required=True)


def _check_free(where: str, what: str, target: str, taken: set[str]) -> None:
    if target in taken:
        raise Refusal("target-taken", f"{where}: {what} {target!r} is where this site mounts its own; choose another")


def _prefix(path: str, allow: Sequence[str]) -> str | None:
    """The longest allowed prefix that covers *path*, with its ``:ro``."""
    found = [one for one in allow if below(path, one.removesuffix(":ro"))]
    return max(found, key=lambda one: len(PurePosixPath(one.removesuffix(":ro")).parts), default=None)


def _system(path: str, host: HostFacts) -> str | None:
    """The system path that *path* lies in or contains: a bind mount shows what is mounted below it as well."""
    return next((one for one in (*SYSTEM, *host.closed) if below(path, one) or below(one, path)), None)


def _closed(path: str, settings: MountsConfig, host: HostFacts) -> str | None:
    """Why *path* is never mounted, None if nothing stands against it."""
    if (found := _system(path, host)) is not None:
        return "system paths are never given to a container" if below(path, found) else f"it contains {found}"
    found = next((one for one in settings.deny if below(path, one) or below(one, path)), None)
    if found is None:
        return None
    return f"this site keeps {found} closed" if below(path, found) else f"it contains {found}, which this site closed"


def _check_volume(job: Job, volume: Volume, where: str, settings: MountsConfig, host: HostFacts) -> None:
    source = plain(volume.source)
    if (reason := _closed(source, settings, host)) is not None:
        raise Refusal("mount-not-allowed", f"{where}: {volume.source} cannot be mounted: {reason}")
    allow = settings.allow
    if settings.home != "none" and _is_mountable_home(job, host):
        allow = (*allow, f"{job.home}:ro" if settings.home == "ro" else job.home)
    prefix = _prefix(source, allow)
    if prefix is None:
        listed = some([one.removesuffix(":ro") for one in allow]) if allow else "no path"
        raise Refusal(
            "mount-not-allowed", f"{where}: {volume.source} cannot be mounted; this site allows paths below {listed}"
        )
    if prefix.endswith(":ro") and not volume.read_only:
        raise Refusal(
            "mount-read-only",
            f"{where}: {volume.source} can be mounted for reading only; write {volume.source}:{volume.target}:ro",
        )
