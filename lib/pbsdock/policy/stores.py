"""Policy on object stores: which store, bucket, prefix and mode a job may have, and what is staged where. Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pbsdock.config.tables import StoreConfig
from pbsdock.core.errors import Refusal
from pbsdock.core.pathrules import above
from pbsdock.core.plan import BucketGrant, Mount, Stage, Store, Tmpfs
from pbsdock.core.sizes import some
from pbsdock.directive.parse import Directive
from pbsdock.policy.host import plain, position
from pbsdock.rm.base import Job
from pbsdock.s3.document import LIMIT, document
from pbsdock.s3.names import Access, BadName, Url, parse_access, parse_url

Stores = dict[str, StoreConfig]


@dataclass(frozen=True, slots=True)
class _Ask:
    """One thing a directive wants of a store."""

    where: str  # script:4:9
    text: str  # the option as the user wrote it
    store: str
    bucket: str
    directory: str  # whole components; what is asked for lies below them
    read_only: bool
    is_mode_given: bool = True


def stores_of(job: Job, directive: Directive, stores: Stores) -> tuple[Store, ...]:
    """What the job gets of each store it names, in the order of the site's file. Raises Refusal."""
    container: dict[str, list[BucketGrant]] = {}
    staging: dict[str, list[BucketGrant]] = {}
    for index, text in enumerate(directive.s3):
        where = position(directive, "s3", index)
        access = _checked(where, f"--s3 {text}", text, parse_access)
        assert isinstance(access, Access)
        name = _store(where, f"--s3 {text}", access.store, stores)
        _permit(job, _Ask(where, f"--s3 {text}", name, access.bucket, access.prefix, access.read_only), stores[name])
        keys = (access.prefix, f"{access.prefix}/*") if access.prefix else ("*",)
        container.setdefault(name, []).append(BucketGrant(bucket=access.bucket, keys=keys, read_only=access.read_only))
    for option, where, _path, url_text, _on in _stages(directive):
        said = f"--{option} {url_text}"
        url = _url(where, option, url_text)
        name = _store(where, said, url.store, stores)
        read_only = option == "stage-in"
        _permit(job, _Ask(where, said, name, url.bucket, url.directory, read_only), stores[name])
        staging.setdefault(name, []).append(BucketGrant(bucket=url.bucket, keys=_keys(url), read_only=read_only))
    made = tuple(
        Store(
            name=name,
            endpoint=store.endpoint,
            region=store.region,
            ca_file=f"ca-{name}.pem" if store.ca_bundle else "",
            container=tuple(container.get(name, ())),
            staging=tuple(staging.get(name, ())),
        )
        for name, store in stores.items()
        if name in container or name in staging
    )
    for stage in made:
        _check_length(directive, stage)
    return made


def _checked(where: str, said: str, text: str, parse: object) -> Access | Url:
    try:
        return parse(text)  # type: ignore[operator, no-any-return]
    except BadName as error:
        raise Refusal("bad-store-name", f"{where}: {said} {error}") from None


def _url(where: str, option: str, text: str) -> Url:
    """Parsed again: a variable in it is filled in only now."""
    url = _checked(where, f"--{option} {text!r}", text, parse_url)
    assert isinstance(url, Url)
    if option == "stage-out" and url.is_pattern:
        said = f"{where}: --stage-out {text!r} has a wildcard; write the key, or a prefix and /"
        raise Refusal("bad-store-name", said)
    return url


def _stages(directive: Directive) -> Iterator[tuple[str, str, str, str, str]]:
    """Every staging option: its name, where it stands, path, address, and when."""
    for index, (url, path) in enumerate(directive.stage_in):
        yield "stage-in", position(directive, "stage-in", index), path, url, "success"
    for index, (path, url, when) in enumerate(directive.stage_out):
        yield "stage-out", position(directive, "stage-out", index), path, url, when


def _store(where: str, said: str, name: str | None, stores: Stores) -> str:
    if not stores:
        option = said.split(" ", 1)[0]
        raise Refusal("s3-not-configured", f"{where}: {option}: this site has no object store configured")
    if name is None:
        return next(iter(stores))
    if name not in stores:
        names = some(list(stores))
        raise Refusal("no-such-store", f"{where}: {said}: there is no store {name!r}; this site has {names}")
    return name


def _keys(url: Url) -> tuple[str, ...]:
    """The keys that one staging option reads or writes."""
    if url.is_pattern:
        return (f"{url.literal}*",)
    if not url.directory:
        return ("*",)
    return (f"{url.directory}/*",) if url.key.endswith("/") else (url.key, f"{url.key}/*")


# -- rules ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    bucket: str
    prefix: str
    read_only: bool

    @property
    def shown(self) -> str:
        name = f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket
        return f"{_unescaped(name)}:{'ro' if self.read_only else 'rw'}"

    def covers(self, bucket: str, directory: str) -> bool:
        """By components: ``data`` covers ``data/x``, never ``database``; a wildcard does not cross a slash."""
        if not fnmatch.fnmatchcase(bucket, self.bucket):
            return False
        wanted = self.prefix.split("/") if self.prefix else []
        given = directory.split("/") if directory else []
        return len(given) >= len(wanted) and all(
            fnmatch.fnmatchcase(part, pattern) for part, pattern in zip(given, wanted, strict=False)
        )


def _rules(job: Job, allow: Sequence[str]) -> list[_Rule]:
    rules = []
    for text in allow:
        read_only = text.endswith(":ro")
        name = re.sub(r":(ro|rw)$", "", text).removesuffix("/")
        name = name.replace("{user}", _escaped(job.user)).replace("{group}", _escaped(job.group))
        bucket, _, prefix = name.partition("/")
        rules.append(_Rule(bucket, prefix, read_only))
    return rules


def _escaped(name: str) -> str:
    """A user's or group's name as it is, whatever characters it has."""
    return re.sub(r"([*?\[])", r"[\1]", name).replace("/", "[/]")


def _unescaped(pattern: str) -> str:
    return re.sub(r"\[([*?\[/])\]", r"\1", pattern)


def _permit(job: Job, ask: _Ask, store: StoreConfig) -> None:
    rules = _rules(job, store.allow)
    fitting = [rule for rule in rules if rule.covers(ask.bucket, ask.directory)]
    what = f"bucket {ask.bucket!r}" + (f" below {ask.directory!r}" if ask.directory else "")
    if not fitting:
        allowed = some([rule.shown for rule in rules])
        raise Refusal(
            "bucket-not-allowed",
            f"{ask.where}: {ask.text}: {what} of store {ask.store} is not open to {job.user}; allowed are {allowed}",
        )
    if not ask.read_only and all(rule.read_only for rule in fitting):
        raise Refusal(
            "bucket-read-only",
            f"{ask.where}: {ask.text}: {what} of store {ask.store} is open to {job.user} for reading only (:ro)",
        )


def _check_length(directive: Directive, store: Store) -> None:
    for option, grants in (("s3", store.container), ("stage-in", store.staging)):
        size = len(document(grants)) if grants else 0
        if size > LIMIT:
            options = "--s3 lines" if option == "s3" else "--stage-in and --stage-out lines"
            raise Refusal(
                "store-policy-too-long",
                f"{directive.at(option)}: what the {options} ask of store {store.name} makes a policy of {size}"
                f" characters, and the gateway takes {LIMIT}; name fewer buckets, or one prefix that covers several",
            )


# -- paths ------------------------------------------------------------------------------------------------------------


def stages_of(
    directive: Directive, stores: Stores, mounts: Sequence[Mount], tmpfs: Sequence[Tmpfs]
) -> tuple[tuple[Stage, ...], tuple[Stage, ...]]:
    """What is staged in and out, of a directive that :func:`stores_of` has passed. Raises Refusal.

    Paths are the container's, and must lie in a directory of the host that it gets: what is staged elsewhere the
    job's script could not see.
    """
    found: dict[str, list[Stage]] = {"stage-in": [], "stage-out": []}
    usable = {mount.target: mount for mount in mounts if mount.origin != "nodefile"}
    memory = {mount.target for mount in tmpfs}
    for option, where, path, text, when in _stages(directive):
        url = _url(where, option, text)
        _check_path(where, f"--{option} path {path!r}", path, option == "stage-in", usable, memory)
        slash = "/" if path.endswith("/") else ""
        found[option].append(
            Stage(
                store=url.store or next(iter(stores)),
                bucket=url.bucket,
                key=url.key,
                path=f"{plain(path)}{slash}",
                where=where,
                always=when == "always",
            )
        )
    return tuple(found["stage-in"]), tuple(found["stage-out"])


def _check_path(
    where: str, said: str, path: str, writes: bool, usable: Mapping[str, Mount], memory: AbstractSet[str]
) -> None:
    # From the path upwards, since options times mounts would be many.
    nearest = next((directory for directory in above(plain(path)) if directory in memory or directory in usable), "")
    mount = None if nearest in memory else usable.get(nearest)
    if mount is None:
        listed = some(list(usable))
        raise Refusal(
            "stage-path-not-mounted",
            f"{where}: {said} is not in a directory of the host that the container gets; those are {listed}",
        )
    if writes and mount.read_only:
        raise Refusal("mount-read-only", f"{where}: {said} is in {mount.target}, which is mounted for reading only")
