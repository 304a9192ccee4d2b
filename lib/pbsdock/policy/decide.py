"""Site policy: job + directive + configuration -> plan, or a refusal. Pure: no engine, no clock, no file.

Paths are judged by components as written; what they really are is judged again when they are resolved as the user.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from pbsdock.config.tables import OVERRIDABLE, Config
from pbsdock.core.errors import Refusal
from pbsdock.core.plan import Device, Limits, Plan, PullPolicy
from pbsdock.core.sizes import some
from pbsdock.directive.image_ref import ImageRef
from pbsdock.directive.parse import EXPANDED_LIMIT, Directive, TooLong, expand
from pbsdock.policy.host import HostFacts, position
from pbsdock.policy.limits import limits_of, tmpfs_of
from pbsdock.policy.mounts import check_paths, mounts_of, variable_at, work_dir_closed
from pbsdock.policy.stores import stages_of, stores_of
from pbsdock.rm.base import Job

__all__ = ["HostFacts", "Owner", "anybody_may_run", "decide", "effective", "image_matches", "override_of"]
_MOST_GPUS = 1024  # a list is made of them; what a request says is only as true as the server's list of nodes


class Owner(Protocol):
    """Whose job it is, as far as overrides go by it: a :class:`pbsdock.rm.base.Job` or a plan."""

    @property
    def user(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def gid(self) -> int: ...
    @property
    def groups(self) -> tuple[int, ...]: ...
    @property
    def queue(self) -> str: ...


def override_of(config: Config, owner: Owner) -> int | None:
    """The position of the first override that matches, None if none does."""
    for index, override in enumerate(config.override):
        if (
            (not override.users or owner.user in override.users)
            and (not override.groups or _in_groups(owner, override.groups))
            and (not override.queues or owner.queue in override.queues)
        ):
            return index
    return None


def effective(config: Config, job: Owner) -> Config:
    """The configuration with the first override that matches the job laid over it."""
    index = override_of(config, job)
    if index is None:
        return config
    override = config.override[index]
    tables = {name: getattr(override, name) for name in OVERRIDABLE if getattr(override, name) is not None}
    rules = {name: replace(config.s3[name], allow=found.allow) for name, found in (override.s3 or {}).items()}
    return replace(config, **tables, s3={**config.s3, **rules})


def decide(job: Job, directive: Directive, config: Config, host: HostFacts) -> Plan:
    """Make the plan.

    Raises Refusal with one sentence that says what is allowed, NodeFault if the configuration leaves no room for any
    job on this host.
    """
    settings = effective(config, job)
    _check_user(job, settings)
    _check_image(directive, settings)
    pull = _pull(directive, settings)
    network = _network(directive, settings)
    _check_environment(directive, settings)
    directive = _expanded(job, directive)
    check_paths(job, directive)
    limits = limits_of(job, directive, settings.limits, host)
    mounts = mounts_of(job, directive, settings.mounts, host)
    tmpfs = tmpfs_of(directive, limits, host, mounts)
    stores = stores_of(job, directive, settings.s3)
    stage_in, stage_out = stages_of(directive, settings.s3, mounts, tmpfs)
    return replace(
        _own(job, settings, limits),
        image=directive.image.canonical,
        pull=pull,
        platform=directive.platform,
        network=network,
        mounts=mounts,
        tmpfs=tmpfs,
        devices=tuple(Device(path=path) for path in settings.devices.allow),
        gpus=_gpus(job, directive, settings),
        read_only_root=directive.read_only,
        environment=directive.env,
        environment_deny=settings.env.deny,
        work_dir_closed=work_dir_closed(job, directive, settings.mounts, host),
        environment_keep=(*settings.env.keep, *job.words.own_variables),
        workdir=directive.workdir,
        entrypoint=directive.entrypoint,
        interactive=job.interactive,
        stores=stores,
        stage_in=stage_in,
        stage_out=stage_out,
        # No other network reaches the host's loopback address.
        credentials_port=config.agent.credentials_port if network == "host" else 0,
    )


def without_container(job: Job, config: Config, host: HostFacts) -> Plan:
    """The plan of a job that has no container of its own, but may start some: whose it is, and what limits it.

    Raises Refusal, NodeFault as :func:`decide`.
    """
    settings = effective(config, job)
    _check_user(job, settings)
    nothing = Directive(image=ImageRef(registry="", repository="", tag=None, digest=None), line=0, column=0)
    return _own(job, settings, limits_of(job, nothing, settings.limits, host))


def _own(job: Job, settings: Config, limits: Limits) -> Plan:
    """What a plan has of the job alone: whose it is, and what limits it."""
    return Plan(
        job_id=job.id,
        user=job.user,
        group=job.group,
        uid=job.uid,
        gid=job.gid,
        groups=job.groups,
        home=job.home,
        queue=job.queue,
        image="",
        pull="never",
        platform=None,
        limits=limits,
        network="none",
        mounts=(),
        tmpfs=(),
        devices=(),
        gpus=(),
        read_only_root=False,
        environment=(),
        environment_deny=(),
        workdir=None,
        entrypoint=None,
        oom_score_adj=settings.limits.oom_score_adj,
        walltime_s=job.grant.walltime_s,
    )


def _in_groups(job: Owner, names: Sequence[str]) -> bool:
    """Whether the job's owner is in one of *names*: the primary group's name, or the number of any group."""
    return bool({job.group, str(job.gid), *map(str, job.groups)} & set(names))


def _check_user(job: Job, settings: Config) -> None:
    users = settings.users
    if job.uid < users.min_uid:
        raise Refusal(
            "user-not-allowed",
            f"user {job.user} has uid {job.uid}; containers are for users from uid {users.min_uid} on",
            rule="users.min_uid",
        )
    if job.user in users.deny:
        sentence = f"user {job.user} may not run containers at this site"
        raise Refusal("user-not-allowed", sentence, rule="users.deny")
    if users.allow_groups and not _in_groups(job, users.allow_groups):
        raise Refusal(
            "user-not-allowed",
            f"user {job.user} may not run containers at this site; members of {some(users.allow_groups)} may",
            rule="users.allow_groups",
        )


# -- image ------------------------------------------------------------------------------------------------------------


def _check_image(directive: Directive, settings: Config) -> None:
    image, images = directive.image, settings.images
    where = f"{directive.filename}:{directive.line}:{directive.column}"
    denied = next((index for index, pattern in enumerate(images.deny) if image_matches(image, pattern)), None)
    if denied is not None:
        raise Refusal(
            "image-not-allowed",
            f"{where}: image {image.canonical!r} is not allowed at this site: {images.deny[denied]} is on its list of"
            " images that may not run",
            rule="images.deny",
            item=denied,
        )
    if not any(image_matches(image, pattern) for pattern in images.allow):
        raise Refusal(
            "image-not-allowed",
            f"{where}: image {image.canonical!r} is not allowed at this site; allowed are {some(images.allow)}",
        )
    if images.require_digest and not image.digest:
        raise Refusal(
            "image-not-pinned",
            f"{where}: image {image.canonical!r} names no digest; this site wants IMAGE@sha256:…",
        )


def anybody_may_run(image: ImageRef, config: Config) -> bool:
    """Whether the site allows an image to somebody at least."""
    rules = [config.images, *(override.images for override in config.override if override.images is not None)]
    return any(
        any(image_matches(image, pattern) for pattern in rule.allow)
        and not any(image_matches(image, pattern) for pattern in rule.deny)
        for rule in rules
    )


def image_matches(image: ImageRef, pattern: str) -> bool:
    """Match registry with registry and repository with repository.

    One match over the whole text would let the ``*`` of ``*.example.org/*`` run across the slash and cover
    ``evil.test/x.example.org/y``. A host's case and the port every registry has anyway do not make another registry.
    """
    if pattern == "*" or pattern == image.digest:
        return True
    registry, _, repository = pattern.partition("/")
    named = image.registry.lower().removesuffix(":443")
    if not fnmatch.fnmatchcase(named, registry.lower().removesuffix(":443")):
        return False
    forms = [image.repository]
    forms += [f"{image.repository}:{image.tag}"] if image.tag else []
    forms += [f"{image.repository}@{image.digest}"] if image.digest else []
    return any(fnmatch.fnmatchcase(form, repository) for form in forms)


def registry_matches(registry: str, pattern: str) -> bool:
    """Whether images that *pattern* allows may come from *registry*."""
    if pattern == "*":
        return True
    named, slash, _ = pattern.partition("/")
    return bool(slash) and fnmatch.fnmatchcase(
        registry.lower().removesuffix(":443"), named.lower().removesuffix(":443")
    )


def _pull(directive: Directive, settings: Config) -> PullPolicy:
    wanted = directive.pull or settings.images.pull
    if settings.images.pull == "never" and wanted != "never":
        raise Refusal(
            "pull-not-allowed",
            f"{directive.at('pull')}: --pull {wanted}: this site runs only images that are on the node already",
        )
    return wanted


# -- network, environment ---------------------------------------------------------------------------------------------


def _network(directive: Directive, settings: Config) -> str:
    wanted = directive.network or settings.network.default
    allowed = tuple(dict.fromkeys((*settings.network.allow, settings.network.default)))
    if wanted not in allowed:
        raise Refusal(
            "network-not-allowed",
            f"{directive.at('network')}: network {wanted!r} is not allowed; use one of {some(allowed)}",
        )
    return wanted


def _check_environment(directive: Directive, settings: Config) -> None:
    """The list is about the host job's own values; what a directive spells out is the user's wish for their process."""
    for index, (name, value) in enumerate(directive.env):
        if value is None and any(fnmatch.fnmatchcase(name, pattern) for pattern in settings.env.deny):
            raise Refusal(
                "variable-not-allowed",
                f"{position(directive, 'env', index)}: --env {name} would take the host's own {name} into the"
                f" container; write --env {name}=VALUE",
            )


def _expanded(job: Job, directive: Directive) -> Directive:
    variables = {"USER": job.user, "HOME": job.home, job.words.job_id_variable: job.id}
    if job.work_dir:
        variables[job.words.work_dir_variable] = job.work_dir
    if job.tmpdir:
        variables["TMPDIR"] = job.tmpdir
    try:
        return expand(directive, variables)
    except KeyError as error:
        name = str(error.args[0])
        raise Refusal(
            "no-such-variable", f"{variable_at(directive, name)}: ${name} is not set for this job on this node"
        ) from None
    except TooLong:
        name = max(variables, key=lambda name: len(variables[name]))
        raise Refusal(
            "values-too-long",
            f"{variable_at(directive, name)}: with the variables filled in, the options have more than"
            f" {EXPANDED_LIMIT} characters; ${name} alone has {len(variables[name])}",
        ) from None


# -- devices ----------------------------------------------------------------------------------------------------------


def _gpus(job: Job, directive: Directive, settings: Config) -> tuple[str, ...]:
    if directive.gpus is None:
        return ()
    where, wanted = directive.at("gpus"), directive.gpus
    if not settings.devices.gpus:
        raise Refusal("gpus-not-offered", f"{where}: --gpus is not offered at this site")
    granted = job.grant.gpus
    if not granted:
        raise Refusal(
            "gpus-not-granted",
            f"{where}: --gpus needs GPUs granted by the scheduler; ask with {job.words.ask_gpus}",
        )
    if granted > _MOST_GPUS:
        raise Refusal(
            "gpus-not-granted", f"{where}: --gpus: {granted} GPUs on one node is more than any has; ask for fewer"
        )
    count = granted if wanted == "all" else int(wanted) if wanted.isascii() and wanted.isdigit() else 0
    if not 0 < count <= granted:
        raise Refusal("gpus-not-granted", f"{where}: --gpus {wanted}: this job was granted {granted}")
    ids = job.grant.gpu_ids
    if len(ids) < granted:  # "the first ones" would be another job's
        raise Refusal(
            "gpus-not-known",
            f"{where}: --gpus: {job.words.name} does not say which GPUs of this node are the job's; tell the site",
        )
    return ids[:count]
