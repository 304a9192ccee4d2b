"""The directive's vocabulary: options taken, and options refused on principle. The variables that expand are
:attr:`pbsdock.rm.base.Words.variables`."""

from __future__ import annotations

from pbsdock.rm.base import Words

# name -> what its value looks like
OPTIONS = {
    "volume": "--volume SOURCE:TARGET[:ro|rw]",
    "workdir": "--workdir PATH",
    "env": "--env NAME[=VALUE]",
    "entrypoint": "--entrypoint 'PROGRAM [WORD…]'",
    "network": "--network NAME",
    "shm-size": "--shm-size SIZE",
    "tmpfs": "--tmpfs PATH[:size=SIZE]",
    "pull": "--pull never|missing|always",
    "platform": "--platform OS/ARCHITECTURE",
    "gpus": "--gpus COUNT|all",
    "s3": "--s3 [PROFILE:]BUCKET[/PREFIX][:ro|rw]",
    "stage-in": "--stage-in s3://[PROFILE:]BUCKET/KEY PATH",
    "stage-out": "--stage-out PATH s3://[PROFILE:]BUCKET/KEY [on=success|always]",
}
FLAGS = ("read-only", "no-home")
# options in whose values variables expand
EXPANDING = ("volume", "workdir", "env", "tmpfs", "stage-in", "stage-out")
ALIASES = {"-v": "volume", "-w": "workdir", "-e": "env", "--net": "network"}

_MEMORY = "the job's memory is the container's; ask for it with {0.ask_memory}"
_CPU = "the job's CPUs are the container's; ask for them with {0.ask_cpus}"
_CAPS = "a job's container has no capabilities; nothing can add one"
_NAMESPACE = "a job's container has its own; sharing the host's would show other users' work"
_PORTS = "no port is published for a job; use --network host where the site allows it"
_FOREGROUND = "{0.name} starts the container and waits for it; leave it out"
_TERMINAL = "an interactive job gets its terminal by itself; leave it out"
_USER = "the container runs as you, with all your groups; leave it out"
_NETWORK = "the network's settings are the site's; choose one with --network NAME"
_IO = "the node's disks are shared as the site has set them; leave it out"
_HEALTH = "the job's exit status tells how it went; leave it out"
_ENGINE = "it is about the docker command, which is not used; leave it out"
_OOM = "{0.name} and the site decide which job dies first; leave it out"
_NAMING = "{0.name} names the job ({0.choose_name}) and pbsdock its container; leave it out"

# option as written -> why, and what to use, with the places of the resource manager's words
_REFUSED = {
    "--privileged": "a job never gets more rights on the node than its user; ask your site for a device or a mount",
    "--cap-add": _CAPS,
    "--cap-drop": "every capability is dropped already; leave it out",
    "--security-opt": "the site's security profile always applies; leave it out",
    "--pid": _NAMESPACE,
    "--ipc": _NAMESPACE,
    "--uts": _NAMESPACE,
    "--userns": _NAMESPACE,
    "--cgroupns": _NAMESPACE,
    "--device": "devices come from the scheduler's grant and the site's list; ask with {0.ask_gpus}",
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
    "--cpuset-mems": _CPU,
    "--cpu-period": _CPU,
    "--cpu-rt-period": _CPU,
    "--cpu-rt-runtime": _CPU,
    "-c": _CPU,
    "--kernel-memory": _MEMORY,
    "--memory-swappiness": _MEMORY,
    "--oom-score-adj": _OOM,
    "--blkio-weight": _IO,
    "--blkio-weight-device": _IO,
    "--device-read-bps": _IO,
    "--device-read-iops": _IO,
    "--device-write-bps": _IO,
    "--device-write-iops": _IO,
    "--pids-limit": "the site sets how many processes a job may have; ask for more room with {0.ask_room}",
    "--ulimit": "the limits {0.name} sets hold in the container too; set lower ones with ulimit in the script",
    "--cgroup-parent": "the job's own cgroup is the parent; leave it out",
    "--name": _NAMING,
    "--hostname": _NAMING,
    "-h": _NAMING,
    "--label": _NAMING,
    "--label-file": _NAMING,
    "--annotation": _NAMING,
    "-l": _NAMING,
    "--rm": "the container is always removed after the job; leave it out",
    "--attach": _FOREGROUND,
    "-a": _FOREGROUND,
    "--sig-proxy": "signals always reach the job; leave it out",
    "--stop-signal": "{0.signal_commands} choose the signal; leave it out",
    "--stop-timeout": "{0.name}'s kill delay holds; leave it out",
    "--detach-keys": _TERMINAL,
    "--health-cmd": _HEALTH,
    "--health-interval": _HEALTH,
    "--health-retries": _HEALTH,
    "--health-start-period": _HEALTH,
    "--health-start-interval": _HEALTH,
    "--health-timeout": _HEALTH,
    "--no-healthcheck": _HEALTH,
    "--cidfile": _ENGINE,
    "--disable-content-trust": _ENGINE,
    "--use-api-socket": "the engine's socket would make the job root on the node; it is never given",
    "--quiet": _ENGINE,
    "-q": _ENGINE,
    "--help": "the options are in the manual's page on the directive; pbsdock check SCRIPT tells what is wrong",
    "--detach": _FOREGROUND,
    "-d": _FOREGROUND,
    "--restart": "{0.name} restarts jobs ({0.rerun}), never the engine; leave it out",
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
    "--env-file": "the job's own environment is passed on; use --env NAME=VALUE or {0.give_variable}",
    "--add-host": "the node's name service is used; leave it out",
    "--dns": "the node's name service is used; leave it out",
    "--dns-option": "the node's name service is used; leave it out",
    "--dns-search": "the node's name service is used; leave it out",
    "--domainname": _NAMING,
    "--ip": _NETWORK,
    "--ip6": _NETWORK,
    "--mac-address": _NETWORK,
    "--link-local-ip": _NETWORK,
    "--network-alias": _NETWORK,
    "--net-alias": _NETWORK,
    "--link": "no other container is within a job's reach; use --network",
    "--log-opt": "output goes to the job's own files; leave it out",
    "--log-driver": "output goes to the job's own files; leave it out",
    "--runtime": "the site chooses the runtime; leave it out",
    "--sysctl": "kernel settings are the site's; leave it out",
    "--storage-opt": "the site sets how large the writable layer may be; use --tmpfs or $TMPDIR",
    "--isolation": "it has no meaning on Linux; leave it out",
}

REFUSED = frozenset(_REFUSED)

# those of them that take no value
REFUSED_FLAGS = (
    "--privileged",
    "--publish-all",
    "-P",
    "--oom-kill-disable",
    "--rm",
    "--detach",
    "-d",
    "--interactive",
    "-i",
    "--tty",
    "-t",
    "-it",
    "-ti",
    "--init",
    "--sig-proxy",
    "--no-healthcheck",
    "--disable-content-trust",
    "--quiet",
    "-q",
    "--help",
    "--use-api-socket",
)


def reason(option: str) -> str:
    """Why an option is refused on principle, with the places of Words; "" for one that is not."""
    return _REFUSED.get(option, "")


def why_refused(option: str, words: Words) -> str:
    """Why an option is refused on principle, and what to use; "" for one that is not."""
    return reason(option).format(words)
