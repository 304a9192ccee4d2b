"""The container of a job from plan, image and the four things of the run hook, whatever engine makes it. Pure."""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pbsdock.core.facts import Bound, ImageTraits
from pbsdock.core.pathrules import below
from pbsdock.core.plan import Plan
from pbsdock.engine.base import BindMount, ContainerSpec, Rlimits
from pbsdock.s3.environment import FOREIGN, variables

# Variables that choose among the devices there are, by their numbers.
_VISIBLE_GPUS = ("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
# What the job's own shell sets (see `command`): set by an engine, they would strangle runc before the job starts.
NO_TRAITS = ImageTraits()
# Patterns of variables that are the job's also where the image sets them: who and where it is, what it was granted.
OF_THE_JOB = ("HOME", "USER", "LOGNAME", "TMPDIR", "TERM", "ENVIRONMENT", *_VISIBLE_GPUS)
SHELL_LIMITS = {"v": "Max address space", "d": "Max data size"}


PLAIN_SHELLS = ("sh", "bash", "dash", "ash", "ksh", "mksh")  # read no file before a script (POSIX sh, bash(1))
_SHELLS = ("sh", "bash", "dash", "ash", "ksh", "mksh", "zsh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What the run hook asks for: believed, because it can only hurt the user's own job."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    cwd: str
    umask: int
    tty: bool
    interpreter: str = ""  # what the script's #! line names; "" for none, or a task
    env_finds: str = ""  # the program that env(1) is to find, where the interpreter is that
    shell_chosen: bool = True  # False: the login shell that is taken where the job names none
    shell_option: str = ""  # by which a job chooses its shell, for a sentence


def parse_limits(text: str) -> dict[str, tuple[int, int]]:
    """Parse /proc/PID/limits (proc(5)); -1 is unlimited."""
    limits = {}
    for line in text.splitlines()[1:]:
        name, fields = line[:25].strip(), line[25:].split()
        soft, hard = (-1 if number == "unlimited" else int(number) for number in fields[:2])
        limits[name] = (soft, hard)
    return limits


def environment(plan: Plan, call: Call, image: ImageTraits = NO_TRAITS) -> list[str]:
    """The job's variables less the denied ones and those the image sets, then the directive's own.

    The engine adds the image's below them: what a job brings from a login node (qsub -V) names things of that node.
    """
    job = dict(call.environment)
    store = variables(plan)
    foreign = FOREIGN if store else frozenset()
    of_image = frozenset(image.variables)
    chosen = {
        name: value
        for name, value in job.items()
        if name not in foreign
        and not _matches(name, plan.environment_deny)
        and (name not in of_image or _matches(name, (*OF_THE_JOB, *plan.environment_keep)))
    }
    if image.shells and "SHELL" in chosen and not _has_shell(call, image, chosen["SHELL"]):
        chosen["SHELL"] = image.shell
    if image.time_zone and "TZ" not in chosen and "TZ" not in of_image:
        chosen["TZ"] = image.time_zone
    chosen |= store
    if plan.gpus:
        # Mom names devices of the host; the container has the job's alone, numbered from 0.
        chosen |= {name: ",".join(map(str, range(len(plan.gpus)))) for name in _VISIBLE_GPUS if name in job}
    for name, own in plan.environment:
        if own is not None:
            chosen[name] = own
        elif name in job:
            chosen[name] = job[name]
    return [f"{name}={value}" for name, value in chosen.items()]


def _has_shell(call: Call, image: ImageTraits, shell: str) -> bool:
    """Whether the image has it; one chosen with qsub -S it has, or the job does not start."""
    return shell in image.shells or (call.shell_chosen and call.argv == (shell,))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


# Says of "$1" why it cannot be run, as far as a shell's own tests tell. After a failure alone: it uses names freely.
_WHY = r"""pbsdock_why() {
d=$1
while case $d in ?*/*) ;; *) false ;; esac; do
d=${d%/*}
if [ -d "${d:-/}" ] && [ ! -x "${d:-/}" ]; then
printf '%s\n' "the directory ${d:-/} on the way to $1 is closed to you"
return
fi
done
if [ -d "$1" ]; then printf '%s\n' "$1 is a directory, not a program"
elif [ -x "$1" ]; then printf '%s\n' "$1 is there and cannot be run: its loader or interpreter is missing or closed to\
 you, it is built for another machine, or its file system forbids to run programs"
elif [ -e "$1" ]; then printf '%s\n' "$1 is not executable for you"
elif [ -L "$1" ]; then printf '%s\n' "$1 is a link to what does not exist or is closed to you"
fi
}"""


def command(
    call: Call, rlimits: Rlimits, image: str, traits: ImageTraits = NO_TRAITS, *, workdir: str = ""
) -> list[str]:
    """The job's argv behind a shell line that sets what the engine cannot: umask and memory rlimits.

    runc starts every process with umask 0022 (libcontainer) and the Engine API has no field for it. The line also
    looks, as the user, whether they can be in *workdir*, the directive's, and run what is to be run; else it ends with
    status 125 and a sentence.
    """
    program = call.argv[0]
    lines = [f"umask {call.umask & 0o777:04o}"]
    for letter, kernel_name in SHELL_LIMITS.items():
        soft, hard = rlimits.get(kernel_name, (-1, -1))
        # Soft first: a hard limit below the soft one is refused (setrlimit(2)).
        if soft != -1:
            lines.append(f"ulimit -S{letter} {soft // 1024} 2>/dev/null")
        if hard != -1:
            lines.append(f"ulimit -H{letter} {hard // 1024} 2>/dev/null")
    if workdir:
        lines.append(f"[ -x {_quoted(f'{workdir}/.')} ] || {_told(closed_workdir(image, workdir))}")
    if call.interpreter or "/" in program:
        lines.append(_WHY)
    if call.interpreter:
        lines += _interpreter_checks(call, image)
    if "/" in program:
        hint = f"; choose a shell it has with {call.shell_option}" if len(call.argv) == 1 else ""
        missing, other = _quoted(f"image '{image}' has no "), _quoted(f"image '{image}': ")
        told = _say(f'"pbsdock: $why"{_quoted(hint)}')
        lines.append(
            'pbsdock_failed() { trap - EXIT; why=$(pbsdock_why "$0"); if [ -n "$why" ]; then why=' + other + "$why;"
            f" else why={missing}$0; fi; {told}; exit 125; }}"
        )
        absent = "pbsdock_failed" if call.shell_chosen else f'exec {shlex.quote(traits.shell)} "$@"'
        lines.append(f'[ -x "$0" ] && [ ! -d "$0" ] || {absent}')
        # Where exec fails dash and ash are over but for the trap; so is bash, unless told not to be.
        lines.append("trap pbsdock_failed EXIT; shopt -s execfail 2>/dev/null")
    lines.append('exec "$0" "$@"')
    if "/" in program:
        lines.append("pbsdock_failed")
    return ["/bin/sh", "-c", "; ".join(lines), *call.argv]


def _interpreter_checks(call: Call, image: str) -> list[str]:
    named = call.interpreter
    if named.endswith("\r"):
        return [_told(carriage_return(named))]
    which = "which the script's first line names"
    missing = f"image '{image}' has no {named}, {which}"
    path = _quoted(named)
    because = _quoted(f"pbsdock: image '{image}': ") + '"$why"' + _quoted(f" ({which})")
    checks = [
        f'[ -x {path} ] && [ ! -d {path} ] || {{ why=$(pbsdock_why {path}); if [ -n "$why" ]; then'
        f" {_say(because)}; exit 125; fi; {_told(missing)}; }}",
    ]
    # Shells of other kinds may read files of the user's before, which may change PATH.
    if call.env_finds and call.argv[0].rpartition("/")[2] in PLAIN_SHELLS and len(call.argv) == 1:
        said = f"image '{image}' has no program {call.env_finds} in its PATH, {which}"
        checks.append(f"command -v {_quoted(call.env_finds)} >/dev/null 2>&1 || {_told(said)}")
    return checks


def _told(sentence: str) -> str:
    return f"{{ {_say(_quoted(f'pbsdock: {sentence}'))}; exit 125; }}"


def _say(words: str) -> str:
    return f"printf '%s\\n' {words} >&2"  # echo may take a backslash for more than that


def _quoted(text: str) -> str:
    return shlex.quote(text) if text else ""


def carriage_return(interpreter: str) -> str:
    """The sentence on a script's first line that ends with one, which counts as part of the interpreter's name."""
    return (
        f"the script's first line ends with a carriage return (CRLF), so that {interpreter!r} is looked for as its"
        " interpreter; remove them with sed -i 's/\\r$//' SCRIPT"
    )


def closed_workdir(image: str, workdir: str) -> str:
    """The sentence on a directory that the job's user cannot be in."""
    return (
        f"image '{image}': the work directory {workdir} is closed to you; choose one that you may enter with --workdir,"
        " or mount one there with --volume"
    )


def entrypoint(words: str) -> tuple[str, ...]:
    """The words in front of the command's own.

    A shell takes a command as one word only: one that has no script of its own, with or without ``-c``, is given a word
    that runs the words behind it.
    """
    found = tuple(shlex.split(words))
    if found and found[0].rpartition("/")[2] in _SHELLS and all(word[:1] == "-" for word in found[1:]):
        takes_command = bool(found[1:]) and found[-1][1:2] != "-" and found[-1].endswith("c")
        return (*found, *(() if takes_command else ("-c",)), 'exec "$0" "$@"')
    return found


def working_directory(plan: Plan, call: Call, bound: Sequence[Bound]) -> str:
    """The directive's, else the run hook's own if the container has it, else the root."""
    if plan.workdir:
        return plan.workdir
    plain = call.cwd.startswith("/") and ".." not in call.cwd.split("/")
    return call.cwd if plain and any(below(call.cwd, mount.target) for mount in bound) else "/"


def for_job(
    plan: Plan,
    call: Call,
    *,
    bound: Sequence[Bound],
    rlimits: Rlimits,
    traits: ImageTraits = NO_TRAITS,
    wrapped: bool = True,
    made: Made,
) -> ContainerSpec:
    """The job's container where its command is the first process itself; *wrapped*: see `command`."""
    return _container(
        plan,
        made,
        bound,
        argv=tuple(command(call, rlimits, plan.image, traits, workdir=plan.workdir or "")) if wrapped else call.argv,
        entrypoint=entrypoint(plan.entrypoint or ""),
        environment=tuple(environment(plan, call, traits)),
        workdir=working_directory(plan, call, bound),
        tty=call.tty,
        rlimits=rlimits,
        has_streams=True,
    )


def to_wait(plan: Plan, argv: Sequence[str], *, bound: Sequence[Bound], made: Made) -> ContainerSpec:
    """The job's container with a first process that is given the job's command, environment and directory later."""
    # The engine makes a work directory that the image lacks, as Docker does, but none of the host's.
    inside = any(below(plan.workdir or "/", mount.target) for mount in bound)
    return _container(
        plan,
        made,
        bound,
        argv=tuple(argv),
        entrypoint=(),
        environment=(),
        workdir="/" if inside else plan.workdir or "/",
        tty=False,
        rlimits={},
        has_streams=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the agent has made for a job's container. ``own_files`` are (root-made source, target), always read-only;
    ``own_places`` the same, but the user's to write to; ``runtime`` is the site's."""

    image_id: str
    own_files: Sequence[tuple[str, str]]
    own_places: Sequence[tuple[str, str]] = ()
    cgroup_parent: str
    labels: Mapping[str, str]
    hostname: str = ""
    runtime: str = ""
    network_aliases: Sequence[str] = ()


def _container(
    plan: Plan,
    made: Made,
    bound: Sequence[Bound],
    *,
    argv: tuple[str, ...],
    entrypoint: tuple[str, ...],
    environment: tuple[str, ...],
    workdir: str,
    tty: bool,
    rlimits: Rlimits,
    has_streams: bool,
) -> ContainerSpec:
    mounts = [
        BindMount(
            source=mount.pin or mount.source,
            target=mount.target,
            read_only=mount.read_only,
            follows=mount.follows and bool(mount.pin),
        )
        for mount in bound
    ]
    mounts += [BindMount(source=source, target=target, read_only=True) for source, target in made.own_files]
    shares_name = plan.network.startswith("container:")
    mounts += [BindMount(source=source, target=target, read_only=False) for source, target in made.own_places]
    return ContainerSpec(
        image_id=made.image_id,
        argv=argv,
        entrypoint=entrypoint,
        environment=environment,
        uid=plan.uid,
        gid=plan.gid,
        groups=plan.groups,
        workdir=workdir,
        tty=tty,
        has_streams=has_streams,
        labels=made.labels,
        mounts=tuple(mounts),
        tmpfs=plan.tmpfs,
        network=plan.network,
        network_aliases=tuple(made.network_aliases),
        hostname="" if shares_name else made.hostname,  # another container's comes with its network
        limits=plan.limits,
        cgroup_parent=made.cgroup_parent,
        devices=plan.devices,
        gpus=plan.gpus,
        rlimits=rlimits,
        oom_score_adj=plan.oom_score_adj,
        read_only_root=plan.read_only_root,
        runtime=made.runtime,
        # Else the engine opens them all in a namespace of the container's own, and masquerading keeps them low on the
        # way out: pbs_mom takes whoever speaks from a port below 1024 for root.
        sysctls={} if plan.network == "host" or shares_name else {"net.ipv4.ip_unprivileged_port_start": "1024"},
    )
