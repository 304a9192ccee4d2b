"""Prepare a job: facts, directive, policy, plan, record, image, cgroup, files. One function with two callers.

The prologue calls it when the script's directive is known; a run hook calls it on demand for a job that is alive on
this node, with a script or without: whoever submits it may name an image.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import re
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pbsdock.agent import health, logins, stage, work_dir
from pbsdock.agent.attempts import MOST
from pbsdock.agent.image_profile import GROUP, PASSWD
from pbsdock.agent.node import Node, ms_since, parse_cpus
from pbsdock.agent.release import release
from pbsdock.config.tables import ImagesConfig
from pbsdock.core.errors import BadValue, HookError, NodeFault, Refusal
from pbsdock.core.facts import uptime
from pbsdock.core.plan import Plan
from pbsdock.core.record import Record, State
from pbsdock.directive.parse import SCRIPT_LIMIT, Directive, DirectiveError, parse_options, parse_script
from pbsdock.engine import fitness
from pbsdock.engine.accounts import group, passwd
from pbsdock.engine.base import EngineError
from pbsdock.engine.images import Image
from pbsdock.host import mounts
from pbsdock.policy.decide import decide, effective
from pbsdock.policy.limits import with_cpus
from pbsdock.policy.mounts import rules_of
from pbsdock.rm.base import Announced, Job
from pbsdock.s3.environment import DIRECTORY, has_credentials
from pbsdock.stores import files

_INTERPRETER = re.compile(rb"#![ \t]*(/[A-Za-z0-9._/+-]+)(?=[ \t\n]|$)")

_BUSY_S = 5.0

Notify = Callable[[str], None]


def from_prologue(node: Node, argv: Sequence[str], env: Mapping[str, str], notify: Notify) -> Record | None:
    """Prepare what a prologue was called for; None if the job has no directive.

    A user's fault becomes a record in state ``refused`` for the run hook to tell. Raises BadValue for what is no job,
    NodeFault for what may be the node's fault.
    """
    began = time.monotonic()
    announced = node.rm.announced(argv, env)
    with node.job_lock(announced.id, node.config.prologue.alarm_s - node.config.prologue.margin_s):
        sweep_older(node, announced.id)
        try:
            job = announced.job()
        except KeyError:
            sentence = f"user {announced.user!r} of job {announced.id} is not known here"
            raise NodeFault("unknown-user", sentence) from None
        try:
            with node.planning.turn(job.uid, job.user):
                script = read_script(announced.script_path, job.uid)
                name = announced.name or "script"
                directive = parse_script(script, node.rm.words, filename=name) if script is not None else None
                if directive is None:
                    return None
                plan = _decide(node, job, directive, announced.wrong)
        except DirectiveError as error:
            return _refused(node, job, Refusal("bad-directive", str(error)))
        except Refusal as error:
            return _refused(node, job, error)
        record = _prepare(node, job, plan, script, notify, began)
        if job.id in node.attempts:
            node.attempts.forget(job.id)
        return record


def has_directive(node: Node, argv: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether the script of a prologue whose arguments make no sense has a directive: a plain job is none of ours."""
    try:
        path = node.rm.script_named(argv, env)
        script = read_script(path, os.lstat(path).st_uid)
        return script is not None and parse_script(script, node.rm.words) is not None
    except FileNotFoundError:
        return False
    except (OSError, ValueError, Refusal):
        return True


def failed(node: Node, argv: Sequence[str], env: Mapping[str, str], error: Exception) -> Record:
    """After a prologue that did not come through: whose fault it is.

    The node goes out of service if it confirms the fault without this job. Raises the fault as a NodeFault, for the
    job to be queued again; from the third time for one reason on it is the job's own, and a record in state
    ``refused``.
    """
    fault = _fault(node, error)
    job_id = node.rm.named(argv, env)
    confirmed = fault.sentence if node.is_flagged(fault.code) else health.look(node, fault.code)
    node.emit("job.fault", level="error", code=fault.code, sentence=fault.sentence, job=job_id)
    if confirmed:
        node.fault(NodeFault(fault.code, confirmed))
    elif (count := node.attempts.failed(job_id, fault.code)) >= MOST:
        with suppress(BadValue, OSError, HookError), node.job_lock(job_id, _BUSY_S):
            said = f"preparing job {job_id} on {node.name} has failed {count} times for one reason: {fault.sentence}"
            record = _refused_unseen(node, node.rm.announced(argv, env), Refusal("failed-again", said))
            node.attempts.forget(job_id)
            return record
    raise fault


def _fault(node: Node, error: Exception) -> NodeFault:
    if isinstance(error, NodeFault):
        return error
    if isinstance(error, OSError | HookError | EngineError):  # a full disk, no descriptors left
        return NodeFault("prepare-failed", f"the agent of {node.name} cannot prepare jobs: {error}")
    node.emit("agent.error", level="error", where="prepare", reason=repr(error)[:500])
    return NodeFault("agent-error", f"the agent of {node.name} could not prepare the job: {type(error).__name__}")


def _refused_unseen(node: Node, announced: Announced, error: Refusal) -> Record:
    """A refusal for a job that need not even have a user here: then whoever has its script."""
    try:
        uid = pwd.getpwnam(announced.user).pw_uid
    except KeyError:
        uid = os.lstat(announced.script_path).st_uid
    record = Record.new(
        job_id=announced.id, safe=announced.safe, uid=uid, user=announced.user, node=node.owner, boot_id=node.boot
    )
    record.script_path = announced.script_path
    record.note(job_file=announced.job_file)
    return _keep_refused(node, record, error)


def on_demand(node: Node, job: Job, text: str, notify: Notify, wrong: str = "") -> Record:
    """Prepare a live job from a directive's text, in place of what its script's own line asked for.

    *job*, and what is *wrong* with its resources, come from the resource manager's own file.
    """
    began = time.monotonic()
    with node.job_lock(job.id, 60.0):
        # Whoever asked first: each record is granted the job's whole memory and CPUs.
        made = node.jobs.newest(job.id)
        if made is not None and not is_of_script(made):
            return made
        sweep(node, [made] if made is not None else [])
        if not node.config.interactive.allow:
            return _refused(node, job, Refusal("on-demand-off", "this site does not start containers on demand"))
        try:
            with node.planning.turn(job.uid, job.user):
                script = read_script(job.script_path, job.uid) if job.script_path else None
                plan = _decide(node, job, parse_options(text, node.rm.words), wrong)
        except DirectiveError as error:
            return _refused(node, job, Refusal("bad-directive", str(error)))
        except Refusal as error:
            return _refused(node, job, error)
        return _prepare(node, job, plan, script, notify, began)


def is_of_script(record: Record) -> bool:
    """Whether the job is prepared, or refused, by its script's own line and has not begun."""
    return not record.facts.on_demand and record.state in (State.READY, State.REFUSED)


def _decide(node: Node, job: Job, directive: Directive, wrong: str) -> Plan:
    """The plan, as if no other job had CPUs of its own. Under no lock but the job's: it costs what a user writes."""
    if wrong:
        raise Refusal("bad-resources", f"what the job asks for with {job.words.request} cannot be understood: {wrong}")
    return decide(job, directive, node.config, node.host())


def read_script(path: str, uid: int) -> bytes | None:
    """Read the job script once, without following a link; None if it does not exist (an interactive job).

    Raises Refusal when it is not a plain file of the user's, has a second name, or is too long.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refusal("script-unreadable", f"the job script {path} cannot be read: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid not in (uid, 0):
            raise Refusal(
                "script-unsafe",
                f"the job script {path} is not a plain file of the job's owner with one name; nothing was started",
            )
        if found.st_size > SCRIPT_LIMIT:
            raise Refusal(
                "script-too-long",
                f"the job script has {found.st_size} bytes; a script with #DOCKER may have {SCRIPT_LIMIT}",
            )
        return file.read(SCRIPT_LIMIT + 1)


def sweep_older(node: Node, job_id: str) -> int:
    """Release what an older incarnation of the same job id left; returns how many there were."""
    return sweep(node, node.jobs.records_of(job_id))


def sweep(node: Node, older: Sequence[Record]) -> int:
    """Release these incarnations of a job id; returns how many there are."""
    for record in older:
        release(node, record, why="older-incarnation")
    return len(older)


def _new_record(node: Node, job: Job) -> Record:
    record = Record.new(job_id=job.id, safe=job.safe, uid=job.uid, user=job.user, node=node.owner, boot_id=node.boot)
    record.container_name = f"pbsdock-{record.safe}-{record.incarnation}"
    record.cgroup = record.name
    if job.script_path:
        record.script_path = job.script_path
    record.note(job_file=job.job_file, nodes=max(1, len(job.grant.hosts)), on_demand=job.on_demand)
    return record


def _refused(node: Node, job: Job, error: Refusal) -> Record:
    return _keep_refused(node, _new_record(node, job), error)


def _keep_refused(node: Node, record: Record, error: Refusal) -> Record:
    record.refuse(error)
    node.jobs.create(record)
    node.mark(record)
    node.emit("job.refused", record, code=error.code, sentence=error.sentence, phase="prologue")
    return record


def refuse(node: Node, record: Record, error: Refusal) -> Record:
    """Refuse a job that is prepared in part or whole: everything of it is released, the sentence stays."""
    release(node, record, why="refused", keep=True)
    record.refuse(error)
    return record


def _prepare(node: Node, job: Job, plan: Plan, script: bytes | None, notify: Notify, began: float) -> Record:
    record = _new_record(node, job)
    plan = _with_cpus(node, job, plan, record)
    record.plan = plan
    record.note(asked_at=began)
    # One durable write before the first side effect names every handle there will ever be: container name, cgroup
    # and files follow from the record's own name, so a crash later leaves nothing that is not written down.
    steps = ["image", "files", "cgroup", "container"]
    steps += ["credentials"] if plan.stores else []
    steps += ["staging"] if plan.stage_in or plan.stage_out else []
    record.begin(steps)
    try:
        node.jobs.create(record)
    finally:
        node.promised.pop(record.incarnation, None)  # its record tells of them now
    try:
        node.mark(record)
        node.emit("job.planned", record, image=plan.image, queue=plan.queue, network=plan.network, phase="prologue")
        _carry_out(node, job, record, plan, script, notify, began)
    except Refusal as error:
        return refuse(node, record, error)
    except (HookError, EngineError, OSError) as error:
        release(node, record, why="prologue-failed")
        if isinstance(error, NodeFault):
            raise
        raise NodeFault("prepare-failed", f"preparing job {job.id} failed on {node.name}: {error}") from error
    except BaseException:
        release(node, record, why="prologue-failed")
        raise
    return record


def _with_cpus(node: Node, job: Job, plan: Plan, record: Record) -> Plan:
    settings = effective(node.config, job).limits
    if settings.cpu != "cpuset":
        return plan
    with node.cpu_lock:
        limits = with_cpus(plan.limits, settings, node.free_cpus())
        node.promised[record.incarnation] = frozenset(parse_cpus(limits.cpuset or ""))
    return replace(plan, limits=limits)


def _carry_out(
    node: Node, job: Job, record: Record, plan: Plan, script: bytes | None, notify: Notify, began: float
) -> None:
    settings = effective(node.config, job)
    _check_engine(node)
    image = _image(node, settings.images, plan, notify, began)
    record.image_id, record.image_digest = image.id, image.digest
    user = mounts.User.of(plan)
    rules = rules_of(plan.home, settings.mounts, node.closed_paths(), tmpdir_by_user=plan.interactive)
    bound, skipped = mounts.resolve(plan.mounts, user, rules)
    for mount, reason in skipped:
        node.emit("mount.skipped", record, target=mount.target, origin=mount.origin, reason=reason)
    extra, why = work_dir.submitted_from(job.work_dir, plan, bound, rules)
    bound += extra
    work_dir.tell(plan, skipped, why, script, job.words, notify)
    wanted = [one.target for one in plan.mounts if one.origin == "volume"] + [one.target for one in plan.tmpfs]
    # What is staged in may yet make the directory to work in: then it is looked for before the start.
    wanted += [plan.workdir] if plan.workdir and not plan.stage_in else []
    if lost := mounts.missing(wanted, bound, user):
        path, inside = lost
        raise Refusal(
            "no-such-directory",
            f"{path} does not exist in {inside.source}, which is {inside.target} in the container, or is a"
            " link; make it first",
        )
    record.note(own_files=tuple(_files(node, job, record, plan, script)), bound=tuple(bound), path_rules=rules)
    for one in (*plan.stage_in, *plan.stage_out):
        stage.item_of(record, plan, one)  # refuses what lies in a mount that was left out
    began_cgroup = time.monotonic()
    node.cgroups.create(record.cgroup, plan.limits)
    node.emit("cgroup.created", record, cgroup=record.cgroup, ms=ms_since(began_cgroup))
    record.note(alive_at=uptime())
    record.advance(State.READY, phase="prologue", ms=ms_since(began), image_id=image.id)
    # Needed by the run hook at the earliest: from here on the gateway's time passes beside mom's own.
    if plan.stores:
        node.stores.begin(record, plan)
    if plan.stage_in:
        stage.begin_in(node, record, plan)


def _check_engine(node: Node) -> None:
    """Raises NodeFault. What is known of the engine may be old: it reads its list of runtimes anew when told to."""
    try:
        fitness.check(node.engine_info(), node.config.engine.runtime)
    except NodeFault:
        node.look_again()
        fitness.check(node.engine_info(), node.config.engine.runtime)


def _image(node: Node, settings: ImagesConfig, plan: Plan, notify: Notify, began: float) -> Image:
    left = node.config.prologue.alarm_s - node.config.prologue.margin_s - (time.monotonic() - began)
    told = False

    def progress(text: str) -> None:
        nonlocal told
        if not told and time.monotonic() - began >= settings.wait_notice_s:
            told = True
            notify(text)

    with logins.asker(node.config.engine.docker_config, settings, plan) as asker:
        return node.images.ensure(
            plan.image,
            pull=plan.pull,
            platform=plan.platform,
            inactivity_s=settings.inactivity_s,
            total_s=max(1.0, min(settings.total_s, left)),
            max_bytes=settings.max_bytes,
            asker=asker,
            progress=progress,
        )


def _files(node: Node, job: Job, record: Record, plan: Plan, script: bytes | None) -> list[tuple[str, str]]:
    """Write the root-made files the container gets; returns (source, target) pairs."""
    directory = node.work_dir(record)
    directory.mkdir(mode=0o700, parents=True)
    image = node.image_profiles.of(record.image_id or "", pwd.getpwuid(plan.uid).pw_shell or "/bin/sh")
    record.note(image=image.traits)
    accounts = passwd(plan, image.traits.shell, image.passwd), group(plan, _group_names(plan), image.group)
    made = []
    for name, target, text in zip(("passwd", "group"), (PASSWD, GROUP), accounts, strict=True):
        _write(directory / name, text.encode(), 0o644, 0, 0)
        made.append((str(directory / name), target))
    if script is not None and job.script_path:
        _write(directory / "script", script, 0o700, plan.uid, plan.gid)
        named = _INTERPRETER.match(script)
        record.note(
            script_names_shell=node.rm.chooses_shell(script),
            interpreter=named[1].decode() if named else "",
            script_sha256=hashlib.sha256(script).hexdigest(),
        )
        made.append((str(directory / "script"), job.script_path))
    if has_credentials(plan):
        files.make(node.store_dir(record), plan.uid, plan.gid)
        made.append((str(node.store_dir(record)), DIRECTORY))
    return made


def _write(path: Path, data: bytes, mode: int, uid: int, gid: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)


def _group_names(plan: Plan) -> dict[int, str]:
    names = {}
    for gid in (plan.gid, *plan.groups):
        try:
            names[gid] = grp.getgrgid(gid).gr_name
        except KeyError:
            continue
    return names
