"""A trial's request, its outcome, and what mom knows of the job in between."""

from __future__ import annotations

import difflib
import fcntl
import grp
import os
import pwd
import re
import resource
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pbsdock.rm.torque import BadValue, JobId, Resources, parse_duration, parse_job_id, parse_resource_list, parse_size
from pbsdock.trial.nodes import NodeSlots, place

ABORT, REQUEUE = -2, -14  # exit_status Torque records when a prologue fails (observed)
NOT_JOINED = -3  # and when a sister's prologue.parallel fails: a requeue too (observed)
MOM_PORT = 15003
_SIGNAL = 256
_LARGEST = (1 << 63) - 1
_ARGUMENT = 2048  # bytes of the buffer mom packs a Resource_List into; what does not fit is left out
# resource_def in Torque's src/server/resc_def_all.c, without what needs other machines.
_RESOURCES = frozenset(
    "advres arch cput cpuclock depend epilogue feature file flags gattr geometry gres host mem mppdepth mppmem mppnppn"
    " mppwidth naccesspolicy ncpus neednodes nice nodes nodect nodeset opsys other partition pcput pmem procs prologue"
    " pvmem qos reqattr size software tpn trl vmem walltime".split()
)
# What the server keeps to itself: without ATR_DFLAG_MOM there, and in no argument or .JB of a real mom's (observed).
_OF_THE_SERVER = frozenset(
    "advres arch depend feature flags gattr geometry host naccesspolicy nodect nodeset opsys partition qos reqattr"
    " software tpn trl".split()
)
_TIMES = ("cput", "pcput", "walltime")
_SIZES = ("mem", "vmem", "pmem", "pvmem", "file")


# One for all jobs of a program: two runs of one script can then be compared byte for byte.
_COOKIE = secrets.token_hex(16).upper()


class BadRequest(ValueError):
    """What was asked for cannot be tried; ``str()`` says why."""


@dataclass(slots=True, kw_only=True)
class Request:
    """One job as qsub would describe it. ``script`` None: an interactive job."""

    mom_priv: Path  # has the hooks and mom's config; spool/ and aux/ are beside it
    user: str
    script: bytes | None
    resources: str = "nodes=1:ppn=1,walltime=01:00:00"
    variables: Mapping[str, str] = field(default_factory=dict)
    name: str = "STDIN"
    queue: str = "batch"
    shell: str | None = None  # None: the user's login shell
    job_id: str | None = None  # None: the next number
    array_index: int | None = None
    work_dir: str | None = None  # PBS_O_WORKDIR; None: the home directory
    tmpdir: str | None = None  # None: $tmpdir of mom's config
    bare: bool = False  # neither hooks nor job starter: what a job is without pbsdock
    join: bool = False  # qsub -j oe: standard error goes where standard output goes
    login: bool = False  # without a job starter mom makes the shell a login shell, argv[0] "-sh"
    umask: int = 0o077  # of the job; mom's $job_output_file_umask, or 0077 (determine_umask in start_exec.c)
    prologue_alarm_s: float | None = None  # None: $prologalarm of mom's config, else 300
    kill_again_s: float = 5.0  # an alarm's second kill
    kill_delay_s: float = 2.0
    enforce_walltime: bool = True
    requeue_limit: int = 1  # starts at most; a real mom knows no limit
    window: tuple[int, int] = (24, 80)
    term: str = "xterm"
    sisters: Sequence[str] | None = None  # the emulated nodes there are; None: jobs of one node alone
    mom_port: int = MOM_PORT  # where mom, or what stands for it, answers TM
    client_dir: str = ""  # put before mom's PATH; "": nothing


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How it ended: ``exit_status`` as Torque records it, hook statuses negative for a signal, times in seconds."""

    job_id: str
    exit_status: int
    stdout: bytes  # what a prologue printed is here too, though Torque loses it when the prologue fails
    stderr: bytes
    prologue_status: int | None
    epilogue_status: int | None
    seconds: dict[str, float]
    started: int = 1
    session_id: int | None = None
    node_down: str | None = None
    held: tuple[str, ...] = ()  # hooks some descendant of which still has mom's descriptors open

    @property
    def shell_status(self) -> int:
        """The same as a shell's ``$?``."""
        if self.exit_status < 0:
            return 1
        return 128 + self.exit_status - _SIGNAL if self.exit_status >= _SIGNAL else self.exit_status


def mom_config(mom_priv: Path) -> dict[str, str]:
    """The ``$name value`` lines of mom's config; a name given twice has its last value."""
    try:
        text = (mom_priv / "config").read_text(errors="replace")
    except FileNotFoundError:
        return {}
    return {name: value.strip() for name, value in re.findall(r"^\s*\$(\w+)[ \t]+(\S.*)$", text, re.MULTILINE)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request with everything looked up: what mom knows before it starts anything."""

    id: JobId
    entry: pwd.struct_passwd
    group: str
    groups: tuple[int, ...]  # as initgroups gives them, the login group included
    host: str
    name: str
    queue: str
    interactive: bool
    resource_text: str
    resources: Resources
    nodes: str
    ppn: int
    placement: tuple[NodeSlots, ...]  # this host first
    variables: Mapping[str, str]
    work_dir: str
    tmp: Path | None
    nodefile_text: str  # with the two slashes mom writes
    cookie: str
    shell: str
    term: str
    limits: Mapping[str, int]
    mom_port: int = MOM_PORT
    client_dir: str = ""

    @property
    def slots(self) -> int:
        """All slots of the job (PBS_NP)."""
        return sum(node.slots for node in self.placement)


def resolve(request: Request, config: Mapping[str, str]) -> Job:
    """Look everything up. Raises BadRequest, before anything is touched."""
    entry = _user(request.user)
    host = socket.gethostname()
    text = resource_text(request.resources)
    try:
        resources = parse_resource_list(text)
        limits = rlimits(resources.raw)
    except BadValue as error:
        raise BadRequest(f"-l {request.resources}: {error}") from None
    nodes = next((value for key, value in resources.raw if key == "nodes"), "1")
    placement = _placement(request, resources, nodes, host)
    if request.array_index is not None and request.array_index < 0:
        raise BadRequest(f"-t {request.array_index}: the index of an array element is 0 or more")
    for key in request.variables:
        if not key or "=" in key or "\0" in key or "\0" in request.variables[key]:
            raise BadRequest(f"-v: {key!r} cannot be a variable; write NAME=VALUE, without NUL bytes")
    try:
        job_id = parse_job_id(request.job_id or _next_id(request, host))
    except BadValue as error:
        raise BadRequest(str(error)) from None
    tmp = request.tmpdir or config.get("tmpdir")
    suffix = "" if request.array_index is None else f"-{request.array_index}"
    return Job(
        id=job_id,
        entry=entry,
        group=_group_name(entry.pw_gid),
        host=host,
        name=request.name + suffix,
        groups=tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)),
        queue=request.queue,
        interactive=request.script is None,
        resource_text=text,
        resources=resources,
        nodes=nodes,
        ppn=_first_ppn(nodes),
        placement=placement,
        variables=dict(request.variables),
        work_dir=request.work_dir or entry.pw_dir,
        tmp=Path(tmp) / job_id.text if tmp else None,
        nodefile_text=f"{request.mom_priv.parent}/aux//{job_id.text}",
        cookie=_COOKIE,
        shell=request.shell or entry.pw_shell or "/bin/sh",
        term=request.term,
        limits=limits,
        mom_port=request.mom_port,
        client_dir=request.client_dir,
    )


def _placement(request: Request, resources: Resources, nodes: str, host: str) -> tuple[NodeSlots, ...]:
    if request.sisters is None:
        if len(resources.nodes) > 1 or any(node.count != 1 for node in resources.nodes):
            raise BadRequest(
                f"-l nodes={nodes}: only jobs of one node can be tried here; ask for nodes=1:ppn=N, or have the other"
                f" nodes emulated with --nodes {nodes}"
            )
        return (NodeSlots(node=host, slots=resources.nodes[0].ppn if resources.nodes else 1),)
    try:
        return place(resources.nodes, host, request.sisters)
    except BadValue as error:
        raise BadRequest(f"-l nodes={nodes}: {error}") from None


def _first_ppn(nodes: str) -> int:
    """PBS_NUM_PPN as mom reads it: the first ppn there is, be it another part's (``InitUserEnv``)."""
    found = re.search(r"ppn=([0-9]+)", nodes)
    return int(found.group(1)) if found else 1


def _user(name: str) -> pwd.struct_passwd:
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise BadRequest(f"user {name!r} does not exist on this host") from None
    if entry.pw_uid == 0:
        raise BadRequest("jobs of root are not run; name an ordinary user with --user")
    return entry


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _next_id(request: Request, host: str) -> str:
    """Numbers only grow: a job id that came back would be an older job's incarnation."""
    fd = os.open(request.mom_priv.parent / "trial.seq", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "r+") as file:
        fcntl.flock(fd, fcntl.LOCK_EX)
        number = int(file.read().strip() or "0") + 1
        file.seek(0)
        file.write(f"{number}\n")
    index = "" if request.array_index is None else f"[{request.array_index}]"
    return f"{number}{index}.{host}"


def resource_text(asked: str) -> str:
    """The Resource_List as mom hands it to hooks: nodes added where absent, times written out. Raises BadRequest."""
    items = [_item(item) for item in asked.split(",") if item.strip()]
    if not any(key == "nodes" for key, _ in items):
        items.insert(0, ("nodes", "1:ppn=1"))
    nodes = next(value for key, value in items if key == "nodes")
    items = [(key, value) for key, value in items if key not in _OF_THE_SERVER]
    return packed([*items, ("neednodes", nodes)])


def _item(text: str) -> tuple[str, str]:
    key, equals, value = text.strip().partition("=")
    if key not in _RESOURCES:
        near = difflib.get_close_matches(key, sorted(_RESOURCES), n=1)
        hint = f"did you mean {near[0]}?" if near else "Torque knows for example nodes, mem, vmem and walltime"
        raise BadRequest(f"-l {text.strip()[:80]}: {key[:40]!r} is no resource; {hint}")
    if not equals or not value:
        raise BadRequest(f"-l {text.strip()[:80]}: a value is missing; write {key}=VALUE")
    try:
        if key in _TIMES:
            seconds = parse_duration(value)
            value = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        elif key in _SIZES:
            parse_size(value)
    except BadValue as error:
        raise BadRequest(f"-l {text.strip()[:80]}: {error}") from None
    return key, value


def packed(items: list[tuple[str, str]]) -> str:
    """Join items as mom does: one that does not fit into what is left of its buffer is left out without a word."""
    room = _ARGUMENT
    kept: list[str] = []
    for key, value in items:
        need = len(key.encode()) + len(value.encode()) + 3
        if need < room:
            room -= need + (1 if kept else 0)
            kept.append(f"{key}={value}")
    return ",".join(kept)


def rlimits(items: tuple[tuple[str, str], ...]) -> dict[str, int]:
    """What mom sets on the job's shell (``src/resmom/linux/mom_mach.c``): cput is watched, pcput is a limit."""
    limits: dict[str, int] = {}
    space: list[int] = []
    for key, value in items:
        if key == "pcput":
            limits["CPU"] = parse_duration(value)
        elif key == "file":
            limits["FSIZE"] = parse_size(value)
        elif key in ("vmem", "pvmem"):
            space.append(parse_size(value))
        elif key in ("mem", "pmem"):
            limits["DATA"] = limits["RSS"] = parse_size(value)
    if space:
        stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
        floor = limits["DATA"] + stack if "DATA" in limits and stack != resource.RLIM_INFINITY else 0
        limits["AS"] = max(min(space), floor)
    return {name: min(value, _LARGEST) for name, value in limits.items()}  # as mom's saturated numbers
