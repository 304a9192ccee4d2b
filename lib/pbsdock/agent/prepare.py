"""Prepare a job: facts, directive, policy, plan, record, image, cgroup, files. One function with three callers.

The prologue calls it when the script's directive is known; a run hook calls it on demand for a job that is alive on
this node, with a script or without: whoever submits it may name an image; a task of a job of several nodes calls it on
a sister, with the ticket of the mother superior.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pbsdock.agent import logins, own_files, stage, standing, tickets, work_dir
from pbsdock.agent.blame import told_fault
from pbsdock.agent.node import Node, ms_since
from pbsdock.agent.refusals import new_record, refuse, refused
from pbsdock.agent.release import release
from pbsdock.agent.script import read_script
from pbsdock.agent.stage_items import item_of
from pbsdock.agent.tickets import Bearer
from pbsdock.config.tables import Config, ImagesConfig
from pbsdock.core.cpus import parse_cpus
from pbsdock.core.errors import HookError, NodeFault, Refusal
from pbsdock.core.facts import Bound, uptime
from pbsdock.core.plan import Plan, PullPolicy
from pbsdock.core.record import Record, State
from pbsdock.core.ticket import Ticket
from pbsdock.core.trail import Decision, Phase
from pbsdock.directive.parse import (
    Directive,
    DirectiveError,
    directive_lines,
    directive_text,
    late_line,
    parse_options,
    parse_script,
)
from pbsdock.engine import fitness
from pbsdock.engine.base import EngineError
from pbsdock.engine.images import Image
from pbsdock.host import mounts
from pbsdock.policy.decide import decide, effective
from pbsdock.policy.explain import Rules
from pbsdock.policy.limits import with_cpus
from pbsdock.policy.mounts import rules_of
from pbsdock.policy.sister import narrowed
from pbsdock.rm.base import Job

Notify = Callable[[str], None]
ASKED = 2000  # characters of a directive that are kept


@dataclass(frozen=True, slots=True)
class Reasons:
    """What a plan is made by, and what ``pbsdock why`` tells of it: the directive, and the decisions."""

    asked: str
    rules: Rules
    decided: tuple[Decision, ...]
    directive: str = ""  # whole, for sisters
    is_script: bool = True

    @property
    def config(self) -> Config:
        """The configuration it was decided by, which is its to the end."""
        return self.rules.config


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """One job that is to be prepared: what it is, what it was planned to be and why, and who waits for it.

    ``script`` is None where there is none to run, ``began`` a reading of the monotonic clock, ``bearer`` the ticket on
    a sister.
    """

    job: Job
    plan: Plan
    script: bytes | None
    why: Reasons
    notify: Notify
    began: float
    bearer: Bearer | None = None

    @property
    def config(self) -> Config:
        """The configuration it was decided by."""
        return self.why.config

    @property
    def images(self) -> ImagesConfig:
        """Its images, with what the site overrides for such a job."""
        return effective(self.config, self.job).images


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
        asked = ""
        rules = node.rules  # the same to the end, whatever is reloaded meanwhile
        try:
            with node.planning.turn(job.uid, job.user):
                kept = read_script(announced.script_path, job.uid)
                name = announced.name or "script"
                if kept is None:
                    return None
                script = node.rm.submitted(kept)
                asked = directive_text(script)
                is_strict = rules.config.directive.late == "refuse"
                directive = parse_script(script, node.rm.words, filename=name, refuses_late=is_strict)
                if directive is None:
                    return None
                node.drain.check(node.name)
                plan = _decide(node, rules.config, job, directive, announced.wrong)
        except DirectiveError as error:
            return refused(node, job, Refusal("bad-directive", str(error)), asked)
        except Refusal as error:
            return refused(node, job, error, asked)
        why = Reasons(asked, rules, rules.decided(job, directive, plan), directive_lines(script))
        asked_for = Preparation(job=job, plan=plan, script=script, why=why, notify=notify, began=began)
        record = _prepare(node, asked_for)
        if job.id in node.attempts:
            node.attempts.forget(job.id)
        return record


def on_demand(node: Node, job: Job, text: str, notify: Notify, wrong: str = "") -> Record:
    """Prepare a live job from a directive's text, in place of what its script's own line asked for.

    *job*, and what is *wrong* with its resources, come from the resource manager's own file.
    """
    began = time.monotonic()
    job = replace(job, on_demand=True)
    with node.job_lock(job.id, 60.0):
        # Whoever asked first: each record is granted the job's whole memory and CPUs.
        made = node.jobs.newest(job.id)
        if made is not None and not is_of_script(made):
            return made
        sweep(node, [made] if made is not None else [])
        rules = node.rules
        if not rules.config.interactive.allow:
            return refused(node, job, Refusal("on-demand-off", "this site does not start containers on demand"))
        asked = text[:ASKED]
        try:
            with node.planning.turn(job.uid, job.user):
                kept = read_script(job.script_path, job.uid) if job.script_path else None
                script = node.rm.submitted(kept) if kept is not None else None
                directive = parse_options(text, node.rm.words)
                plan = _decide(node, rules.config, job, directive, wrong)
        except DirectiveError as error:
            return refused(node, job, Refusal("bad-directive", str(error)), asked)
        except Refusal as error:
            return refused(node, job, error, asked)
        why = Reasons(asked, rules, rules.decided(job, directive, plan), text, is_script=False)
        return _prepare(node, Preparation(job=job, plan=plan, script=script, why=why, notify=notify, began=began))


def from_ticket(node: Node, job: Job, bearer: Bearer, notify: Notify, wrong: str = "") -> Record:
    """Prepare a live job on a sister from what its mother superior has decided, under this node's policy as well.

    *job*, and what is *wrong* with its resources, come from the resource manager's own file. What was prepared from the
    same ticket and is not over is returned as it is. Raises NodeFault.
    """
    began = time.monotonic()
    job = replace(job, on_demand=True, script_path=None)
    ticket = bearer.ticket
    with node.job_lock(job.id, 120.0):
        made = node.jobs.newest(job.id)
        if made is not None and tickets.is_of(made, bearer.text):
            return made
        sweep_older(node, job.id)
        asked = ticket.directive[:ASKED]
        rules = node.rules
        try:
            with node.planning.turn(job.uid, job.user):
                directive = _directive_of(node, job, ticket)
                plan = narrowed(_decide(node, rules.config, job, directive, wrong), ticket, node.name)
        except DirectiveError as error:
            return refused(node, job, Refusal("bad-directive", str(error)), asked, bearer)
        except Refusal as error:
            return refused(node, job, error, asked, bearer)
        why = Reasons(asked, rules, rules.decided(job, directive, plan))
        return _prepare(
            node,
            Preparation(job=job, plan=plan, script=None, why=why, notify=notify, began=began, bearer=bearer),
        )


def _directive_of(node: Node, job: Job, ticket: Ticket) -> Directive:
    """As the mother superior has read it. Raises DirectiveError."""
    if not ticket.is_script:
        return parse_options(ticket.directive, node.rm.words)
    lines = ticket.directive.encode("utf-8", "surrogateescape")
    directive = parse_script(lines, node.rm.words, filename=job.name or "script")
    return directive if directive is not None else parse_options("", node.rm.words)


def is_of_script(record: Record) -> bool:
    """Whether the job is prepared, or refused, by its script's own line and has not begun."""
    return not record.facts.on_demand and record.state in (State.READY, State.REFUSED)


def _decide(node: Node, config: Config, job: Job, directive: Directive, wrong: str) -> Plan:
    """The plan, as if no other job had CPUs of its own. Under no lock but the job's: it costs what a user writes."""
    if wrong:
        raise Refusal("bad-resources", f"what the job asks for with {job.words.request} cannot be understood: {wrong}")
    return decide(job, directive, config, node.host())


def sweep_older(node: Node, job_id: str) -> int:
    """Release what an older incarnation of the same job id left; returns how many there were."""
    return sweep(node, node.jobs.records_of(job_id))


def sweep(node: Node, older: Sequence[Record]) -> int:
    """Release these incarnations of a job id; returns how many there are."""
    for record in older:
        release(node, record, why="older-incarnation")
    return len(older)


def _prepare(node: Node, asked: Preparation) -> Record:
    record = new_record(node, asked.job, asked.bearer)
    record.note(asked=asked.why.asked, decided=asked.why.decided)
    node.planned_by[record.incarnation] = asked.config
    asked = replace(asked, plan=with_cpus_of_its_own(node, asked.config, asked.job, asked.plan, record))
    plan = record.plan = asked.plan
    late = late_line(asked.script) if asked.script is not None else 0
    record.note(asked_at=asked.began, late_line=late, first_process=standing.is_wanted(node))
    # One durable write before the first side effect names every handle there will ever be: container name, cgroup
    # and files follow from the record's own name, so a crash later leaves nothing that is not written down.
    record.begin(steps_of(plan))
    try:
        node.jobs.create(record)
    finally:
        node.promised.pop(record.incarnation, None)  # its record tells of them now
    try:
        node.mark(record)
        node.emit("job.planned", record, image=plan.image, queue=plan.queue, network=plan.network, phase="prologue")
        _carry_out(node, record, asked)
    except Refusal as error:
        return refuse(node, record, error)
    except (HookError, EngineError, OSError) as error:
        record.note(fault=told_fault(error, node.name))
        release(node, record, why="prologue-failed")
        if isinstance(error, NodeFault):
            raise
        raise NodeFault("prepare-failed", f"preparing job {asked.job.id} failed on {node.name}: {error}") from error
    except BaseException as error:
        record.note(fault=told_fault(error, node.name))
        release(node, record, why="prologue-failed")
        raise
    return record


def steps_of(plan: Plan) -> list[str]:
    """The side effects a plan will have. Pure."""
    steps = ["image", "files", "cgroup", "container"]
    steps += ["credentials"] if plan.stores else []
    steps += ["staging"] if plan.stage_in or plan.stage_out else []
    return steps


def with_cpus_of_its_own(node: Node, config: Config, job: Job, plan: Plan, record: Record) -> Plan:
    """The plan with CPUs that no other job has, where the site wants that; promised until the record is written."""
    settings = effective(config, job).limits
    if settings.cpu != "cpuset":
        return plan
    with node.cpu_lock:
        limits = with_cpus(plan.limits, settings, node.free_cpus())
        node.promised[record.incarnation] = frozenset(parse_cpus(limits.cpuset or ""))
    return replace(plan, limits=limits)


def _carry_out(node: Node, record: Record, asked: Preparation) -> None:
    job, plan, why = asked.job, asked.plan, asked.why
    check_engine(node, asked.config)
    began_image = time.monotonic()
    image = _image(node, asked)
    came, ms = "pulled" if image.is_fetched else "was here", ms_since(began_image)
    record.put_down(Phase(name="image", at=time.time() - ms / 1000, ms=ms, note=came))
    record.image_id, record.image_digest = image.id, image.digest
    node.image_cache.used(image.id, record)
    if asked.bearer is None:
        tickets.issue(node, job, record, plan, why.directive, is_script=why.is_script)
    bound = _bind(node, record, asked)
    record.note(own_files=tuple(own_files.write(node, job, record, plan, asked.script)), bound=tuple(bound))
    for option in (*plan.stage_in, *plan.stage_out):
        item_of(record, plan, option)  # refuses what lies in a mount that was left out
    began_cgroup = time.monotonic()
    node.cgroups.create(record.cgroup, plan.limits)
    node.emit("cgroup.created", record, cgroup=record.cgroup, ms=ms_since(began_cgroup))
    record.note(alive_at=uptime())
    record.advance(State.READY, phase="prologue", ms=ms_since(asked.began), image_id=image.id)
    # Needed by the run hook at the earliest: from here on the engine's and the gateway's time passes beside mom's own.
    standing.begin(node, record)
    if plan.stores:
        node.stores.begin(record, plan)
    if plan.stage_in:
        stage.begin_in(node, record, plan)


def _bind(node: Node, record: Record, asked: Preparation) -> list[Bound]:
    """Resolve the mounts, and look whether what is to be in them is there. Raises Refusal."""
    job, plan = asked.job, asked.plan
    user = mounts.User.of(plan)
    allowed = effective(asked.config, job).mounts
    rules = rules_of(plan.home, allowed, node.closed_paths(), tmpdir_by_user=plan.interactive)
    bound, skipped = mounts.resolve(plan.mounts, user, rules)
    for mount, reason in skipped:
        node.emit("mount.skipped", record, target=mount.target, origin=mount.origin, reason=reason)
    extra, why = work_dir.submitted_from(job.work_dir, plan, bound, rules)
    bound += extra
    work_dir.tell(plan, skipped, why, asked.script, job.words, asked.notify)
    record.note(path_rules=rules)
    if lost := mounts.missing(must_exist(plan), bound, user):
        path, inside = lost
        raise Refusal(
            "no-such-directory",
            f"{path} does not exist in {inside.source}, which is {inside.target} in the container, or is a"
            " link; make it first",
        )
    return bound


def must_exist(plan: Plan) -> list[str]:
    """The paths in the container that an engine would make, as root, where a mount of the host's lacks them. Pure."""
    paths = [mount.target for mount in plan.mounts if mount.origin == "volume"]
    paths += [tmpfs.target for tmpfs in plan.tmpfs]
    # What is staged in may yet make the directory to work in: then it is looked for before the start.
    return paths + ([plan.workdir] if plan.workdir and not plan.stage_in else [])


def check_engine(node: Node, config: Config) -> None:
    """Raises NodeFault. What is known of the engine may be old: it reads its list of runtimes anew when told to."""
    try:
        fitness.check(node.engine_info(), config.engine.runtime, config.security.seccomp)
    except NodeFault:
        node.look_again()
        fitness.check(node.engine_info(), config.engine.runtime, config.security.seccomp)


def _image(node: Node, asked: Preparation) -> Image:
    plan, config, settings, began = asked.plan, asked.config, asked.images, asked.began
    left = config.prologue.alarm_s - config.prologue.margin_s - (time.monotonic() - began)
    told = False

    def progress(text: str) -> None:
        nonlocal told
        if not told and time.monotonic() - began >= settings.wait_notice_s:
            told = True
            asked.notify(text)

    with logins.asker(config.engine.docker_config, settings, plan) as asker:

        def ensure(reference: str, pull: PullPolicy) -> Image:
            return node.images.ensure(
                reference,
                pull=pull,
                platform=plan.platform,
                inactivity_s=settings.inactivity_s,
                total_s=max(1.0, min(settings.total_s, left)),
                max_bytes=settings.max_bytes,
                asker=asker,
                progress=progress,
            )

        if asked.bearer is not None:
            return tickets.image_of(node, asked.bearer.ticket, ensure, plan, settings.max_bytes)
        return ensure(plan.image, plan.pull)
