"""Prepare a job: facts, directive, policy, plan, record, image, cgroup, files. One function with two callers.

The prologue calls it when the script's directive is known; a run hook calls it on demand for a job that is alive on
this node and has no script (``qsub -I -v PBSDOCK='IMAGE options'``).
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
from pathlib import Path

from pbsdock import mounts, torque
from pbsdock.agent import facts, stage
from pbsdock.agent.node import Node, ms_since
from pbsdock.agent.release import release
from pbsdock.config import ImagesConfig
from pbsdock.container import group, passwd
from pbsdock.credentials import files
from pbsdock.directive import SCRIPT_LIMIT, Directive, DirectiveError, parse_options, parse_script
from pbsdock.engine import EngineError
from pbsdock.errors import HookError, NodeFault, Refusal
from pbsdock.images import Image
from pbsdock.ledger import Record, uptime
from pbsdock.plan import Plan
from pbsdock.policy import decide, effective
from pbsdock.s3_environment import DIRECTORY, has_credentials

_INTERPRETER = re.compile(rb"#![ \t]*(/[A-Za-z0-9._/+-]+)(?=[ \t\n]|$)")

Notify = Callable[[str], None]


def from_prologue(node: Node, argv: Sequence[str], env: Mapping[str, str], notify: Notify) -> Record | None:
    """Prepare what a prologue was called for; None if the job has no directive.

    A user's fault becomes a record in state ``refused`` for the run hook to tell. Raises NodeFault.
    """
    began = time.monotonic()
    try:
        args = torque.parse_prologue_argv(list(argv))
    except torque.BadValue as error:
        raise NodeFault("bad-prologue-arguments", str(error)) from None
    with node.job_lock(args.job_id.text, node.config.prologue.alarm_s - node.config.prologue.margin_s):
        sweep_older(node, args.job_id.text)
        try:
            job = facts.from_prologue(args, env, node.name)
        except KeyError:
            raise NodeFault("unknown-user", f"user {args.user!r} of job {args.job_id.text} is not known here") from None
        try:
            script = read_script(args.script_path, job.uid)
            directive = parse_script(script, filename=args.name or "script") if script is not None else None
        except DirectiveError as error:
            return _refused(node, job, Refusal("bad-directive", str(error)))
        except Refusal as error:
            return _refused(node, job, error)
        if directive is None:
            return None
        return _prepare(node, job, directive, script, notify, began)


def on_demand(node: Node, job: torque.Job, text: str, notify: Notify) -> Record:
    """Prepare a live job without a script from a directive's text; *job* comes from mom's own .JB."""
    began = time.monotonic()
    with node.job_lock(job.id.text, 60.0):
        # Whoever asked first: each record is granted the job's whole memory and CPUs.
        if (made := node.ledger.for_job(job.id.text)) is not None:
            return made
        if not node.config.interactive.allow:
            return _refused(node, job, Refusal("on-demand-off", "this site does not start containers on demand"))
        try:
            directive = parse_options(text)
        except DirectiveError as error:
            return _refused(node, job, Refusal("bad-directive", str(error)))
        return _prepare(node, job, directive, None, notify, began)


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
    records, _problems = node.ledger.load_all()
    older = [one for one in records if one.job_id == job_id]
    for record in older:
        release(node, record, why="older-incarnation")
    return len(older)


def _new_record(node: Node, job: torque.Job) -> Record:
    record = Record.new(
        job_id=job.id.text, safe=job.id.safe, uid=job.uid, user=job.user, node=node.owner, boot_id=node.boot
    )
    record.container_name = f"pbsdock-{record.safe}-{record.incarnation}"
    record.cgroup = f"{record.safe}.{record.incarnation}"
    if job.script_path:
        record.script_path = job.script_path
    record.facts["job_file"] = facts.job_file_name(job)
    record.facts["nodes"] = facts.count_nodes(job)
    return record


def _refused(node: Node, job: torque.Job, error: Refusal) -> Record:
    record = _new_record(node, job)
    _note_refusal(record, error)
    node.ledger.create(record)
    node.mark(record)
    node.emit("job.refused", record, code=error.code, sentence=error.sentence, phase="prologue")
    return record


def refuse(node: Node, record: Record, error: Refusal) -> Record:
    """Refuse a job that is prepared in part or whole: everything of it is released, the sentence stays."""
    release(node, record, why="refused", keep=True)
    _note_refusal(record, error)
    node.ledger.save(record)
    node.emit("job.refused", record, code=error.code, sentence=error.sentence, phase="prologue")
    return record


def _note_refusal(record: Record, error: Refusal) -> None:
    record.state = "refused"
    record.refusal = {"code": error.code, "sentence": error.sentence, "blame": error.blame.value}


def _prepare(
    node: Node, job: torque.Job, directive: Directive, script: bytes | None, notify: Notify, began: float
) -> Record:
    # One at a time from the decision to the record: two jobs must not be given the same CPUs.
    with node.plan_lock:
        try:
            plan = decide(job, directive, node.config, node.host())
        except Refusal as error:
            return _refused(node, job, error)
        record = _new_record(node, job)
        record.plan = plan.to_dict()
        record.state = "preparing"
        # One durable write before the first side effect names every handle there will ever be: container name, cgroup
        # and files follow from the record's own name, so a crash later leaves nothing that is not written down.
        steps = ["image", "files", "cgroup", "container"]
        steps += ["credentials"] if plan.stores else []
        steps += ["staging"] if plan.stage_in or plan.stage_out else []
        for step in steps:
            record.steps[step] = {"begun": True}
        node.ledger.create(record)
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
        raise NodeFault("prepare-failed", f"preparing job {job.id.text} failed on {node.name}: {error}") from error
    except BaseException:
        release(node, record, why="prologue-failed")
        raise
    return record


def _carry_out(
    node: Node, job: torque.Job, record: Record, plan: Plan, script: bytes | None, notify: Notify, began: float
) -> None:
    settings = effective(node.config, job)
    image = _image(node, settings.images, plan, notify, began)
    record.image_id, record.image_digest = image.id, image.digest
    user = mounts.User.of(plan)
    bound, skipped = mounts.resolve(
        plan.mounts, user,
        allowed=[*(one.removesuffix(":ro") for one in settings.mounts.allow), plan.home],
        denied=[str(node.paths.mom_priv.parent), *settings.mounts.deny],
    )
    for mount, reason in skipped:
        node.emit("mount.skipped", record, target=mount.target, origin=mount.origin, reason=reason)
        if mount.origin == "workdir" and script is not None and b"PBS_O_WORKDIR" in script:
            notify(f"the work directory is not in the container: {reason}")
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
    record.facts["own_files"] = _files(node, job, record, plan, script)
    record.facts["bound"] = [one.to_dict() for one in bound]
    for one in (*plan.stage_in, *plan.stage_out):
        stage.item_of(record, plan, one)  # refuses what lies in a mount that was left out
    began_cgroup = time.monotonic()
    node.cgroups.create(record.cgroup, plan.limits)
    node.emit("cgroup.created", record, cgroup=record.cgroup, ms=ms_since(began_cgroup))
    record.state = "ready"
    record.facts["alive_at"] = uptime()
    node.ledger.save(record)
    node.emit("job.ready", record, phase="prologue", ms=ms_since(began), image_id=image.id)
    # Needed by the run hook at the earliest: from here on the gateway's time passes beside mom's own.
    if plan.stores:
        node.stores.begin(record, plan)
    if plan.stage_in:
        stage.begin_in(node, record, plan)


def _image(node: Node, settings: ImagesConfig, plan: Plan, notify: Notify, began: float) -> Image:
    left = node.config.prologue.alarm_s - node.config.prologue.margin_s - (time.monotonic() - began)
    told = False

    def progress(text: str) -> None:
        nonlocal told
        if not told and time.monotonic() - began >= settings.wait_notice_s:
            told = True
            notify(text)

    return node.images.ensure(
        plan.image, pull=plan.pull, platform=plan.platform, inactivity_s=settings.inactivity_s,
        total_s=max(1.0, min(settings.total_s, left)), max_bytes=settings.max_bytes, auth=node.registry_auth(),
        progress=progress,
    )


def _files(
    node: Node, job: torque.Job, record: Record, plan: Plan, script: bytes | None
) -> list[tuple[str, str]]:
    """Write the root-made files the container gets; returns (source, target) pairs."""
    directory = node.work_dir(record)
    directory.mkdir(mode=0o700, parents=True)
    shell = pwd.getpwuid(plan.uid).pw_shell or "/bin/sh"
    pairs = [("passwd", "/etc/passwd", passwd(plan, shell)), ("group", "/etc/group", group(plan, _group_names(plan)))]
    made = []
    for name, target, text in pairs:
        _write(directory / name, text.encode(), 0o644, 0, 0)
        made.append((str(directory / name), target))
    if script is not None and job.script_path:
        _write(directory / "script", script, 0o700, plan.uid, plan.gid)
        record.facts["script_names_shell"] = re.search(rb"^#PBS[ \t](?:.*[ \t])?-S", script, re.MULTILINE) is not None
        if named := _INTERPRETER.match(script):
            record.facts["interpreter"] = named[1].decode()
        record.facts["script_sha256"] = hashlib.sha256(script).hexdigest()
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
