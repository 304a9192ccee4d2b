"""What Docker's client has and a job does not: every such command and option with its sentence. Pure.

A sentence stands after "… is not available in a job:"; it says why, and what to use instead. The options of ``run``
that a ``#DOCKER`` line refuses as well, for the same reason, have the directive's sentence.
"""

from __future__ import annotations

from pbsdock.directive import vocabulary as directive
from pbsdock.rm.base import Words

_BUILD = "a build runs as root on the node; build the image on your own machine or in your site's CI, push and pull it"
_SHARED_IMAGES = "the images of a node are every job's, and the site removes what is not used; leave it out"
_REGISTRY = "images come into a registry from your own machine or your site's CI; docker pull fetches them"
_FILES = "an image is made of files by root alone; put them below a mount, or build the image elsewhere and pull it"
_ARCHIVE = "it packs files as root; copy them as yourself with docker cp, or write them to a mount"
_LATER = "a container starts when it is made; write docker run -d, and docker run once more instead of a second start"
_SWARM = "{0.name} places jobs on nodes, not Docker's swarm; ask for more with {0.request}"
_VOLUMES = (
    "a volume of the engine's would outlive the job; make a directory in $TMPDIR or your work directory and mount it"
)
_PRUNE = "what the job leaves is removed at its end; leave it out"
_ENGINE = "the engine is the site's, and nothing of it is changed from a job; leave it out"
_CONTEXT = "a job has one engine, its node's; leave it out"
_TRUST = "signatures are not made from a job; pin an image with @sha256:… to be sure of it"
_MANIFEST = "it writes to registries; docker pull --platform takes an image for another architecture"
_STREAM = "the terminal stays with the client that started the container; write docker logs -f, or docker exec -it"
_STATE = "a job's containers are suspended with the job, by {0.signal_commands}; docker stop ends a container"
_NETWORKS = "a container is on the network it was started with; write docker run --network NAME"
_COMPOSE = (
    "it speaks to the engine itself; write docker network create, and docker run -d --network --name for each service"
)
_STATS = "{0.name} counts what the job uses, its containers with it; look into a container with docker exec NAME top"
_PORTS = (
    "no port is published for a job; containers of the job reach each other by name on a network that docker network"
    " create NAME makes"
)

# The first word of a command, or all of it. The longest that fits counts.
_COMMANDS = {
    "attach": _STREAM,
    "build": _BUILD,
    "builder": _BUILD,
    "buildx": _BUILD,
    "bake": _BUILD,
    "checkpoint": "checkpoints need root on the node; let the program write its own",
    "commit": _FILES,
    "completion": "the commands are listed by docker --help",
    "compose": _COMPOSE,
    "config": _SWARM,
    "container attach": _STREAM,
    "container commit": _FILES,
    "container create": _LATER,
    "container diff": "the engine's own view of an image's files is root's; write to a mount what is to be compared",
    "container export": _ARCHIVE,
    "container pause": _STATE,
    "container port": _PORTS,
    "container prune": _PRUNE,
    "container rename": "a container keeps its name until it is removed; give it one with docker run --name",
    "container restart": _LATER,
    "container start": _LATER,
    "container stats": _STATS,
    "container top": "write docker exec NAME ps, or ps itself, which shows the job's processes on the node",
    "container unpause": _STATE,
    "container update": "limits hold from a container's start; give them to docker run",
    "context": _CONTEXT,
    "create": _LATER,
    "deploy": _SWARM,
    "diff": "the engine's own view of an image's files is root's; write to a mount what is to be compared",
    "engine": _ENGINE,
    "events": "the engine's events are those of every job; write docker wait, docker ps or docker logs -f",
    "export": _ARCHIVE,
    "history": "it is of use to who builds an image; docker inspect tells how it is run",
    "image build": _BUILD,
    "image history": "it is of use to who builds an image; docker inspect tells how it is run",
    "image import": _FILES,
    "image load": _FILES,
    "image prune": _SHARED_IMAGES,
    "image push": _REGISTRY,
    "image rm": _SHARED_IMAGES,
    "image remove": _SHARED_IMAGES,
    "image save": "it packs an image as root; pull it from its registry where it is needed",
    "image tag": "a tag on a node is every job's; name the image as it is in its registry",
    "import": _FILES,
    "load": _FILES,
    "manifest": _MANIFEST,
    "model": "no models are served from a job's docker; run the server's image with docker run",
    "network connect": _NETWORKS,
    "network disconnect": _NETWORKS,
    "network prune": _PRUNE,
    "node": _SWARM,
    "pause": _STATE,
    "plugin": _ENGINE,
    "port": _PORTS,
    "push": _REGISTRY,
    "rename": "a container keeps its name until it is removed; give it one with docker run --name",
    "restart": _LATER,
    "rmi": _SHARED_IMAGES,
    "save": "it packs an image as root; pull it from its registry where it is needed",
    "scan": "what is in an image is judged before it is pushed; leave it out",
    "scout": "what is in an image is judged before it is pushed; leave it out",
    "sbom": "what is in an image is judged before it is pushed; leave it out",
    "search": "a node does not search registries; look for the image in a browser, and name it in docker pull",
    "secret": _SWARM,
    "service": _SWARM,
    "stack": _SWARM,
    "start": _LATER,
    "stats": _STATS,
    "swarm": _SWARM,
    "system df": _SHARED_IMAGES,
    "system dial-stdio": "the engine's API would make the job root on the node; use the commands of docker --help",
    "system events": "the engine's events are those of every job; write docker wait, docker ps or docker logs -f",
    "system prune": _PRUNE,
    "tag": "a tag on a node is every job's; name the image as it is in its registry",
    "top": "write docker exec NAME ps, or ps itself, which shows the job's processes on the node",
    "trust": _TRUST,
    "unpause": _STATE,
    "update": "limits hold from a container's start; give them to docker run",
    "volume": _VOLUMES,
}

_LIMIT_MEMORY = (
    "a container's memory is part of the job's; --memory limits it within that, and {0.ask_memory} asks for more"
)
_LIMIT_CPU = "a container's CPUs are part of the job's; --cpus limits them within that, and {0.ask_cpus} asks for more"
_TIMES = "a container's output is kept without times; write docker logs --tail N, or date it in the program"
_HEALTH = "no health check is run in a job; write a loop of docker exec until the service answers"
_SUBNET = "the site chooses addresses; containers find each other by name, and --internal closes the way out"
_SOCKET = "a job's docker speaks to the node's agent, never to an engine; leave it out, and unset DOCKER_HOST"
_SIZE = "sizes of files are not counted for a job's containers; write docker exec NAME du"
_DEVICES = "devices come from the scheduler's grant and the site's list; ask with {0.ask_gpus} and write --gpus"

_RUN = {
    "attach": "every stream is connected, standard input with -i; close the others with >/dev/null or 2>/dev/null",
    "cpu-period": _LIMIT_CPU,
    "cpu-quota": _LIMIT_CPU,
    "cpu-rt-period": _LIMIT_CPU,
    "cpu-rt-runtime": _LIMIT_CPU,
    "cpuset-mems": "the job's memory nodes follow its CPUs; leave it out",
    "device": _DEVICES,
    "dns-opt": "the node's name service is used; leave it out",
    "domainname": "the node's domain is used; --hostname alone sets a name",
    "expose": _PORTS,
    "health-cmd": _HEALTH,
    "health-interval": _HEALTH,
    "health-retries": _HEALTH,
    "health-start-interval": _HEALTH,
    "health-start-period": _HEALTH,
    "health-timeout": _HEALTH,
    "kernel-memory": _LIMIT_MEMORY,
    "label-file": "write each label as --label KEY=VALUE",
    "link": "write --network NAME for both; they find each other by --name",
    "log-opt": "the log of a job's container is the site's; write to a file below a mount for another",
    "memory-reservation": _LIMIT_MEMORY,
    "memory-swap": _LIMIT_MEMORY,
    "memory-swappiness": _LIMIT_MEMORY,
    "oom-kill-disable": _LIMIT_MEMORY,
    "publish": _PORTS,
    "publish-all": _PORTS,
    "runtime": "the site chooses the runtime; for GPUs ask with {0.ask_gpus} and write --gpus",
    "volume-driver": "only paths of the node can be mounted; write -v SOURCE:TARGET",
    "volumes-from": "mount the same path in both containers with -v SOURCE:TARGET",
}
# Options of run that are the directive's to explain.
DIRECTIVES = (
    "add-host",
    "blkio-weight",
    "blkio-weight-device",
    "cap-add",
    "cgroup-parent",
    "device-cgroup-rule",
    "device-read-bps",
    "device-read-iops",
    "device-write-bps",
    "device-write-iops",
    "dns",
    "dns-option",
    "dns-search",
    "group-add",
    "ip",
    "ip6",
    "isolation",
    "link-local-ip",
    "mac-address",
    "oom-score-adj",
    "pid",
    "privileged",
    "storage-opt",
    "sysctl",
    "ulimit",
    "use-api-socket",
    "userns",
    "uts",
)
_OPTIONS = {
    "": {
        "config": "your registries' passwords are in your own file, where docker login writes them; leave it out",
        "host": _SOCKET,
        "tls": _SOCKET,
        "tlscacert": _SOCKET,
        "tlscert": _SOCKET,
        "tlskey": _SOCKET,
        "tlsverify": _SOCKET,
    },
    "run": _RUN,
    "exec": {"privileged": "a job never gets more rights on the node than its user; leave it out"},
    "pull": {"all-tags": "each tag would be checked and stored on the node; pull those you use by name"},
    "images": {"tree": "images are listed one a line; leave it out"},
    "ps": {"size": _SIZE},
    "logs": {"since": _TIMES, "timestamps": _TIMES, "until": _TIMES},
    "rm": {"link": "containers are not linked; they find each other by name on a network"},
    "inspect": {"size": _SIZE},
    "container inspect": {"size": _SIZE},
    "image inspect": {"platform": "the image of this node's architecture is told; leave it out"},
    "version": {"kubeconfig": _CONTEXT},
    "network create": {
        "aux-address": _SUBNET,
        "config-from": _SUBNET,
        "config-only": _SUBNET,
        "gateway": _SUBNET,
        "ingress": _SWARM,
        "ip-range": _SUBNET,
        "ipam-driver": _SUBNET,
        "ipam-opt": _SUBNET,
        "ipv6": _SUBNET,
        "opt": _SUBNET,
        "subnet": _SUBNET,
    },
}
_SHORT = {
    "": {"H": "host"},
    "run": {"a": "attach", "p": "publish", "P": "publish-all"},
    "pull": {"a": "all-tags"},
    "ps": {"s": "size"},
    "logs": {"t": "timestamps"},
    "rm": {"l": "link"},
    "inspect": {"s": "size"},
    "container inspect": {"s": "size"},
    "network create": {"o": "opt"},
}
# Those that take no value, which say nothing where they are false.
_FLAGS = frozenset(
    "tls tlsverify privileged publish-all oom-kill-disable use-api-socket all-tags tree size timestamps link"
    " config-only ingress ipv6".split()
)


def refused_commands() -> dict[str, str]:
    """Every command with a sentence of its own, and the sentence, with the places of the manager's words."""
    return dict(_COMMANDS)


def refused_options(command: str) -> dict[str, str]:
    """Every option of an offered command that has a sentence, "" for those before the command, and the sentence."""
    named = dict(_OPTIONS.get(command, {}))
    if command == "run":
        named |= {name: directive.reason(f"--{name}") for name in DIRECTIVES}
    return named


def why_no_command(words_given: tuple[str, ...], words: Words) -> tuple[str, str] | None:
    """(the command as far as it is known, why it is not offered) for the first words of a line; None for others."""
    for count in (2, 1):
        name = " ".join(words_given[:count])
        if name in _COMMANDS:
            return name, _COMMANDS[name].format(words)
    return None


def long_name(command: str, option: str) -> str:
    """The long name of an option as written; "" for an unknown letter."""
    if option.startswith("--"):
        return option[2:]
    return _SHORT.get(command, {}).get(option[1:], "")


def why_no_option(command: str, name: str, words: Words) -> str:
    """Why an option of an offered command is not, by its long name; "" for one that Docker has not either."""
    return refused_options(command).get(name, "").format(words)


def why_no_context() -> str:
    """Why there is no context but the default."""
    return _CONTEXT


def is_flag(command: str, name: str) -> bool:
    """Whether a refused option takes no value."""
    return name in _FLAGS and not (command == "run" and name == "link")
