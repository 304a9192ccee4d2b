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


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What the run hook asks for: believed, because it can only hurt the user's own job."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    cwd: str
    umask: int
    tty: bool
    interpreter: str = ""  # what the script's #! line names; "" for none, or a task
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


def command(call: Call, rlimits: Rlimits, image: str, traits: ImageTraits = NO_TRAITS) -> list[str]:
    """The job's argv behind a shell line that sets what the engine cannot: umask and memory rlimits.

    runc starts every process with umask 0022 (libcontainer) and the Engine API has no field for it.
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
    if call.interpreter:
        said = f"pbsdock: image '{image}' has no {call.interpreter}, which the script's first line names"
        lines.append(f"[ -x {shlex.quote(call.interpreter)} ] || echo {shlex.quote(said)} >&2")
    if "/" in program:
        lines.append(f'[ -x "$0" ] || {_missing_program(image, call, traits)}')
    lines.append('exec "$0" "$@"')
    return ["/bin/sh", "-c", "; ".join(lines), *call.argv]


def _missing_program(image: str, call: Call, traits: ImageTraits) -> str:
    if not call.shell_chosen:
        return f'exec {shlex.quote(traits.shell)} "$@"'
    quoted = image.replace("'", "")
    hint = f"; choose a shell it has with {call.shell_option}" if len(call.argv) == 1 else ""
    return f"{{ echo \"pbsdock: image '{quoted}' has no $0{hint}\" >&2; exit 125; }}"


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
    image_id: str,
    bound: Sequence[Bound],
    own_files: Sequence[tuple[str, str]],
    cgroup_parent: str,
    labels: Mapping[str, str],
    rlimits: Rlimits,
    traits: ImageTraits = NO_TRAITS,
    hostname: str = "",
    wrapped: bool = True,
    runtime: str = "",
) -> ContainerSpec:
    """The job's container. *own_files* are (root-made source, target), always read-only; *wrapped*: see `command`;
    *runtime* is the site's."""
    mounts = [
        BindMount(
            source=mount.pin or mount.source,
            target=mount.target,
            read_only=mount.read_only,
            follows=mount.follows and bool(mount.pin),
        )
        for mount in bound
    ]
    mounts += [BindMount(source=source, target=target, read_only=True) for source, target in own_files]
    return ContainerSpec(
        image_id=image_id,
        argv=tuple(command(call, rlimits, plan.image, traits)) if wrapped else call.argv,
        entrypoint=plan.entrypoint,
        environment=tuple(environment(plan, call, traits)),
        uid=plan.uid,
        gid=plan.gid,
        groups=plan.groups,
        workdir=working_directory(plan, call, bound),
        tty=call.tty,
        labels=labels,
        mounts=tuple(mounts),
        tmpfs=plan.tmpfs,
        network=plan.network,
        # On the host's network the host's own name comes with it.
        hostname="" if plan.network == "host" else hostname,
        limits=plan.limits,
        cgroup_parent=cgroup_parent,
        devices=plan.devices,
        gpus=plan.gpus,
        rlimits=rlimits,
        oom_score_adj=plan.oom_score_adj,
        read_only_root=plan.read_only_root,
        runtime=runtime,
        # Else the engine opens them all in a namespace of the container's own, and masquerading keeps them low on the
        # way out: pbs_mom takes whoever speaks from a port below 1024 for root.
        sysctls={} if plan.network == "host" else {"net.ipv4.ip_unprivileged_port_start": "1024"},
    )
