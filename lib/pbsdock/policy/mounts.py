"""Policy on mounts, by path components as written: ``/scratch2`` is not below ``/scratch``. Pure.

Every path is judged after the variables are filled in, because their values come from the job: the directory
where it was submitted is whatever its owner made of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pbsdock.config.tables import MountsConfig
from pbsdock.core.errors import Refusal
from pbsdock.core.pathrules import Closed, ClosedPaths, PathRules, ReadOnly, below
from pbsdock.core.plan import Mount, MountOrigin
from pbsdock.directive.parse import Directive, Volume
from pbsdock.policy.host import HostFacts, plain, position
from pbsdock.rm.base import Job

_KERNEL = ("/proc", "/sys", "/dev")
_NO_PATH = ""
_OWN = ("/etc/passwd", "/etc/group")  # made for every container, with the job's script
_PBSDOCK = "/run/pbsdock"  # where every container has what pbsdock runs in it


def rules_of(home: str, settings: MountsConfig, closed: ClosedPaths, *, tmpdir_by_user: bool = False) -> PathRules:
    """The rules of a site for a job's owner, whose *home* is open to volumes as it is mounted."""
    rules = PathRules(
        sealed=closed.sealed,
        guarded=closed.guarded,
        deny=settings.deny,
        allow=settings.allow,
        tmpdir_by_user=tmpdir_by_user,
        work_dir=settings.work_dir,
        home=plain(home) if _is_plain(home) else "",
    )
    if settings.home == "none" or not _is_mountable_home(home, rules):
        return rules
    return replace(rules, allow=(*rules.allow, f"{home}:ro" if settings.home == "ro" else home))


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
            check_target(where, what, plain(text), own)
            if plain(text) in targets:
                raise Refusal("target-taken", f"{where}: {what} {text!r} is used twice; choose another")
            targets.add(plain(text))


def check_target(where: str, what: str, target: str, own: Sequence[str] = _OWN) -> None:
    """Check where in a container something of the user's is to be mounted. Raises Refusal for a place that is not the
    user's: into a directory of theirs the engine would make, as root, what every container gets there."""
    kernel = [path for path in _KERNEL if below(target, path) and not (path == "/dev" and what == "--tmpfs path")]
    if target == "/" or kernel or target == "/dev":
        owner = "the kernel" if kernel or target == "/dev" else "the image"
        raise Refusal("target-not-allowed", f"{where}: {what} {target!r} belongs to {owner}; choose another")
    if below(target, _PBSDOCK):
        raise Refusal("target-not-allowed", f"{where}: {what} {target!r} belongs to pbsdock; choose another")
    places = own if what == "--tmpfs path" else (*own, _PBSDOCK)
    covered = next((path for path in places if below(path, target)), None)
    if covered is not None:
        raise Refusal(
            "target-taken",
            f"{where}: {what} {target!r} would cover {covered}, which every container gets; choose another",
        )


def mounts_of(job: Job, directive: Directive, settings: MountsConfig, host: HostFacts) -> tuple[Mount, ...]:
    """Every bind mount, in this order: home, work directory, TMPDIR, node file, the site's own, the volumes.

    What a directive puts in the place of one of the first four takes it. Raises Refusal.
    """
    chosen = {plain(volume.target) for volume in directive.volumes} | {plain(tmpfs.target) for tmpfs in directive.tmpfs}
    rules = rules_of(job.home, settings, host.closed, tmpdir_by_user=job.interactive)
    made = [mount for mount in _automatic(job, directive, settings, rules) if mount.target not in chosen]
    site = [_site(entry) for entry in settings.always]
    taken = {mount.target for mount in site}
    made = [mount for mount in made if mount.target not in taken]
    for index, tmpfs in enumerate(directive.tmpfs):
        _check_free(position(directive, "tmpfs", index), "--tmpfs path", plain(tmpfs.target), taken)
    volumes = []
    for volume in directive.volumes:
        where = f"{directive.filename}:{volume.line}:{volume.column}"
        _check_free(where, "--volume target", plain(volume.target), taken)
        _check_volume(volume, where, rules)
        volumes.append(_mount(volume.source, volume.target, volume.read_only, "volume", required=True, where=where))
    return (*made, *site, *volumes)


def _mount(
    source: str, target: str, read_only: bool, origin: MountOrigin, *, required: bool = False, where: str = ""
) -> Mount:
    return Mount(
        source=plain(source), target=plain(target), read_only=read_only, origin=origin, required=required, where=where
    )


def _automatic(job: Job, directive: Directive, settings: MountsConfig, rules: PathRules) -> Iterator[Mount]:
    has_home = settings.home != "none" and not directive.no_home and _is_mountable_home(job.home, rules)
    if has_home:
        yield _mount(job.home, job.home, settings.home == "ro", "home")
    if (source := _work_dir(job, directive, has_home)) is not None:
        try:
            rules.check(source, "workdir")
            rules.check_work_dir(source, is_own=True)  # whose it is shows when it is opened
            yield _mount(source, source, False, "workdir")
        except ReadOnly:
            yield _mount(source, source, True, "workdir")
        except Closed:
            pass
    if job.tmpdir and _is_plain(job.tmpdir):
        yield _mount(job.tmpdir, job.tmpdir, False, "tmpdir")
    if job.nodefile and _is_plain(job.nodefile):
        yield _mount(job.nodefile, job.nodefile, True, "nodefile")
    if job.gpufile and _is_plain(job.gpufile):
        yield _mount(job.gpufile, job.gpufile, True, "nodefile")


def _work_dir(job: Job, directive: Directive, has_home: bool) -> str | None:
    """The directory of qsub, where it is not mounted with the home, nor is the home that is to be left out."""
    if not job.work_dir or not _is_plain(job.work_dir):
        return None
    source = plain(job.work_dir)
    if below(source, job.home) and (has_home or (directive.no_home and source == plain(job.home))):
        return None
    return source


def work_dir_closed(job: Job, directive: Directive, settings: MountsConfig, host: HostFacts) -> str:
    """Why the directory of qsub is not mounted, as it is written; "" if it may be."""
    rules = rules_of(job.home, settings, host.closed, tmpdir_by_user=job.interactive)
    has_home = settings.home != "none" and not directive.no_home and _is_mountable_home(job.home, rules)
    source = _work_dir(job, directive, has_home)
    taken = {plain(volume.target) for volume in directive.volumes} | {_site(entry).target for entry in settings.always}
    if source is None or source in taken:
        return ""
    try:
        rules.check(source, "workdir")
        rules.check_work_dir(source, is_own=True)
    except Closed as error:
        return f"{source} cannot be mounted: {error}"
    except ReadOnly:
        pass
    return ""


def _is_plain(path: str) -> bool:
    return path.startswith("/") and path.strip("/") != "" and ".." not in path.split("/") and path.isprintable()


def _is_mountable_home(home: str, rules: PathRules) -> bool:
    """A home of / or /run/something, as service accounts have, would open the host.

    One that contains what the site closed is looked at when it is resolved, where its absence is told.
    """
    try:
        replace(rules, deny=()).check(plain(home), "home")
    except Closed:
        return False
    return _is_plain(home)


def _site(entry: str) -> Mount:
    source, _, rest = entry.partition(":")
    target, _, mode = rest.partition(":")
    return _mount(source, target, mode == "ro", "site", required=True)


def _check_free(where: str, what: str, target: str, taken: set[str]) -> None:
    if target in taken:
        raise Refusal("target-taken", f"{where}: {what} {target!r} is where this site mounts its own; choose another")


def _check_volume(volume: Volume, where: str, rules: PathRules) -> None:
    source = plain(volume.source)
    try:
        rules.check(source, "volume")
        rules.check_allowed(source)
    except Closed as error:
        raise Refusal("mount-not-allowed", f"{where}: {volume.source} cannot be mounted: {error}") from None
    except ReadOnly as error:
        if not volume.read_only:
            raise Refusal(
                "mount-read-only", f"{where}: {read_only_sentence(volume.source, volume.target, error)}"
            ) from None


def read_only_sentence(source: str, target: str, why: ReadOnly) -> str:
    """What a user is told whose volume may be read only."""
    because = f": {why}" if str(why) else ""
    return f"{source} can be mounted for reading only{because}; write {source}:{target}:ro"
