"""Environments as mom makes them: for hooks, for the job's shell, for TM tasks. Pure.

The order decides who wins: ``InitUserEnv`` in Torque's ``src/resmom/start_exec.c`` takes mom's own first, then the
user's -v, then what only mom can know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pbsdock.trial.request import Job

MOM = {"PATH": "/bin:/usr/bin", "LANG": "C.UTF-8"}
_NOT_FOR_TASKS = ("USER", "LOGNAME", "SHELL", "PBS_NP")
_MOMS_IN_TASKS = ("PATH", "PBS_VNODENUM")


def node_count(nodes: str) -> int:
    """PBS_NUM_NODES as mom counts it: the leading number of each part, none at all if a named node comes first."""
    numbers = [re.match(r"[0-9]+", part) for part in nodes.split("+")]
    return sum(int(number.group()) for number in numbers if number) if numbers[0] else 0


def _slots(job: Job) -> dict[str, str]:
    count = node_count(job.nodes)
    return {"PBS_NUM_NODES": str(count), "PBS_NUM_PPN": str(job.ppn if count else 1)}


def for_hooks(job: Job, node: int = 0) -> dict[str, str]:
    """That of prologue and epilogue: no PBS_JOBID, nothing of -v, no node file on a sister (*node* 1 ...)."""
    env = {
        **MOM,
        **_slots(job),
        "PBS_MSHOST": job.host,
        **({"PBS_NODEFILE": job.nodefile_text} if node == 0 else {}),
        "PBS_NODENUM": str(node),
        "PBS_NP": str(job.slots),
        "PBS_O_WORKDIR": job.work_dir,
        "PBS_RESOURCE_NODES": job.nodes,
    }
    return {**env, "TMPDIR": str(job.tmp)} if job.tmp else env


def variable_list(job: Job) -> dict[str, str]:
    """What qsub sends along: its own PBS_O_ variables around the user's."""
    entry = job.entry
    before = {
        "PBS_O_QUEUE": job.queue,
        "PBS_O_HOME": entry.pw_dir,
        "PBS_O_LOGNAME": entry.pw_name,
        "PBS_O_PATH": "/usr/local/bin:/usr/bin:/bin",
        "PBS_O_MAIL": f"/var/mail/{entry.pw_name}",
        "PBS_O_SHELL": entry.pw_shell,
        "PBS_O_LANG": MOM["LANG"],
    }
    after = {"PBS_O_WORKDIR": job.work_dir, "PBS_O_HOST": job.host, "PBS_O_SERVER": job.host}
    index = {} if job.id.array_index is None else {"PBS_ARRAYID": str(job.id.array_index)}
    return {**before, **job.variables, **after, **index}


def for_job(job: Job) -> dict[str, str]:
    """The environment of the job's shell, as the job starter sees it."""
    entry = job.entry
    env = {
        **MOM,
        **variable_list(job),
        "HOME": entry.pw_dir,
        "LOGNAME": entry.pw_name,
        "PBS_JOBNAME": job.name,
        "PBS_JOBID": job.id.text,
        "PBS_QUEUE": job.queue,
        "SHELL": job.shell,
        "USER": entry.pw_name,
        "PBS_JOBCOOKIE": job.cookie,
        "PBS_NODENUM": "0",
        "PBS_TASKNUM": "1",
        "PBS_MOMPORT": str(job.mom_port),
        "PBS_NODEFILE": job.nodefile_text,
        "PBS_GPUFILE": f"{job.nodefile_text}gpu",
        "PBS_MICFILE": f"{job.nodefile_text}mic",
        "HOSTNAME": job.host,
        **_slots(job),
        "PBS_VERSION": "TORQUE-6.1",
        "PBS_VNODENUM": "0",
        "PBS_NP": str(job.slots),
    }
    if job.client_dir:
        env["PATH"] = f"{job.client_dir}:{MOM['PATH']}"
    if job.resources.walltime is not None:
        env["PBS_WALLTIME"] = str(job.resources.walltime)
    if job.tmp and not any(name.startswith("TMPDIR") for name in job.variables):
        env["TMPDIR"] = str(job.tmp)
    if job.interactive:
        return {**env, "PBS_ENVIRONMENT": "PBS_INTERACTIVE", "TERM": job.term}
    return {**env, "PBS_ENVIRONMENT": "PBS_BATCH", "ENVIRONMENT": "BATCH"}


def for_task(job: Job, number: int, asked: Mapping[str, str], *, node: int = 0, slot: int = 0) -> dict[str, str]:
    """The environment of a TM task; *asked* is the spawning program's, and overrides even PBS_TASKNUM (observed).

    *node* is the node's place in the host list (0: this host), *slot* that of the virtual node in the node file.
    """
    left_out = _NOT_FOR_TASKS if node == 0 else (*_NOT_FOR_TASKS, "PBS_NODEFILE")
    env = {name: value for name, value in for_job(job).items() if name not in left_out}
    env |= {"PBS_NODENUM": str(node), "PBS_VNODENUM": str(slot), "HOSTNAME": job.placement[node].node}
    mine = {name: env[name] for name in _MOMS_IN_TASKS}
    return {**env, "PBS_TASKNUM": str(number), **asked, **mine}
