"""The directive's vocabulary: options taken, options refused on principle, variables that expand."""

from __future__ import annotations

VARIABLES = ("USER", "HOME", "PBS_JOBID", "PBS_O_WORKDIR", "TMPDIR")

# name -> what its value looks like
OPTIONS = {
    "volume": "--volume SOURCE:TARGET[:ro|rw]",
    "workdir": "--workdir PATH",
    "env": "--env NAME[=VALUE]",
    "entrypoint": "--entrypoint PROGRAM",
    "network": "--network NAME",
    "shm-size": "--shm-size SIZE",
    "tmpfs": "--tmpfs PATH[:size=SIZE]",
    "pull": "--pull never|missing|always",
    "platform": "--platform OS/ARCHITECTURE",
    "gpus": "--gpus COUNT|all",
    "s3": "--s3 [PROFILE:]BUCKET[/PREFIX][:ro|rw]",
    "stage-in": "--stage-in s3://BUCKET/KEY PATH",
    "stage-out": "--stage-out PATH s3://BUCKET/KEY",
}
FLAGS = ("read-only",)
ALIASES = {"-v": "volume", "-w": "workdir", "-e": "env", "--net": "network"}

_MEMORY = "the job's memory is the container's; ask for it with qsub -l mem=SIZE"
_CPU = "the job's CPUs are the container's; ask for them with qsub -l nodes=1:ppn=N"
_CAPS = "a job's container has no capabilities; nothing can add one"
_NAMESPACE = "a job's container has its own; sharing the host's would show other users' work"
_PORTS = "no port is published for a job; use --network host where the site allows it"
_FOREGROUND = "Torque starts the container and waits for it; leave it out"
_TERMINAL = "an interactive job gets its terminal by itself; leave it out"
_USER = "the container runs as you, with all your groups; leave it out"
_NAMING = "Torque names the job (qsub -N) and pbsdock its container; leave it out"

# option as written -> why, and what to use
REFUSED = {
    "--privileged": "a job never gets more rights on the node than its user; ask your site for a device or a mount",
    "--cap-add": _CAPS,
    "--cap-drop": "every capability is dropped already; leave it out",
    "--security-opt": "the site's security profile always applies; leave it out",
    "--pid": _NAMESPACE,
    "--ipc": _NAMESPACE,
    "--uts": _NAMESPACE,
    "--userns": _NAMESPACE,
    "--cgroupns": _NAMESPACE,
    "--device": "devices come from the scheduler's grant and the site's list; ask with qsub -l nodes=1:gpus=N",
    "--device-cgroup-rule": "devices come from the scheduler's grant and the site's list; leave it out",
    "--user": _USER,
    "-u": _USER,
    "--group-add": _USER,
    "--publish": _PORTS,
    "-p": _PORTS,
    "--publish-all": _PORTS,
    "-P": _PORTS,
    "--expose": _PORTS,
    "--memory": _MEMORY,
    "-m": _MEMORY,
    "--memory-swap": _MEMORY,
    "--memory-reservation": _MEMORY,
    "--oom-kill-disable": _MEMORY,
    "--cpus": _CPU,
    "--cpu-shares": _CPU,
    "--cpu-quota": _CPU,
    "--cpuset-cpus": _CPU,
    "--pids-limit": "the site sets how many processes a job may have; leave it out",
    "--ulimit": "the limits Torque sets hold in the container too; set lower ones with ulimit in the script",
    "--cgroup-parent": "the job's own cgroup is the parent; leave it out",
    "--name": _NAMING,
    "--hostname": _NAMING,
    "-h": _NAMING,
    "--label": _NAMING,
    "-l": _NAMING,
    "--rm": "the container is always removed after the job; leave it out",
    "--detach": _FOREGROUND,
    "-d": _FOREGROUND,
    "--restart": "Torque restarts jobs (qsub -r y), never the engine; leave it out",
    "--interactive": _TERMINAL,
    "-i": _TERMINAL,
    "--tty": _TERMINAL,
    "-t": _TERMINAL,
    "-it": _TERMINAL,
    "-ti": _TERMINAL,
    "--init": "the job's shell is the container's first process; leave it out",
    "--mount": "write it as --volume SOURCE:TARGET[:ro] or --tmpfs PATH",
    "--volumes-from": "no other container is within a job's reach; use --volume",
    "--volume-driver": "only paths of the node can be mounted; use --volume",
    "--env-file": "the job's own environment is passed on; use --env NAME=VALUE or qsub -v",
    "--add-host": "the node's name service is used; leave it out",
    "--dns": "the node's name service is used; leave it out",
    "--link": "no other container is within a job's reach; use --network",
    "--log-driver": "output goes to the job's own files; leave it out",
    "--runtime": "the site chooses the runtime; leave it out",
    "--sysctl": "kernel settings are the site's; leave it out",
    "--storage-opt": "the site sets how large the writable layer may be; use --tmpfs or $TMPDIR",
    "--isolation": "it has no meaning on Linux; leave it out",
}
