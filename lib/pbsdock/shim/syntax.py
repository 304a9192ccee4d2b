"""The commands that are offered: their options and arguments, as Docker's own client has them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pbsdock.shim.flags import Option

CONTAINERS = "CONTAINER [CONTAINER...]"


@dataclass(frozen=True, slots=True)
class Syntax:
    """A command: how its arguments are written, how many there are (``most`` None: any number), and its options.

    ``ends_early``: options end at the first argument, since what follows is a program's own line.
    """

    name: str
    arguments: str
    says: str
    least: int = 0
    most: int | None = 0
    ends_early: bool = False
    options: tuple[Option, ...] = ()

    @property
    def usage(self) -> str:
        """The line behind ``Usage:``."""
        options = "[OPTIONS]" if any(option.says for option in self.options) else ""
        return " ".join(word for word in ("docker", self.name, options, self.arguments) if word)


_DETACH_KEYS = Option("detach-keys", "", "string", "taken with Docker's own ctrl-p,ctrl-q only")
_QUIET_IDS = Option("quiet", "q", "", "print ids alone")
_NO_TRUNC = Option("no-trunc", "", "", "print ids and commands in full")
_FILTER = Option("filter", "f", "filter", "print what fits KEY=VALUE, any number of times")
_FORMAT = Option("format", "", "string", "'json', 'table', 'table TEMPLATE' or a Go template")
_FORMAT_F = Option("format", "f", "string", "'json' or a Go template")
_TRUST = Option("disable-content-trust", "", "", "taken; no image is verified in this way")
_PLATFORM = Option("platform", "", "string", "OS/ARCHITECTURE, for an image of several")
_SIGNAL = Option("signal", "s", "string", "the signal, as a name or a number")
_PROCESS = (
    Option("detach", "d", "", "leave it in the background"),
    _DETACH_KEYS,
    Option("env", "e", "list", "NAME=VALUE, or NAME as it is in the client's environment"),
    Option("env-file", "", "list", "a file of such lines, read as you"),
    Option("interactive", "i", "", "connect standard input"),
    Option("tty", "t", "", "give it a terminal"),
    Option("user", "u", "string", "you or nobody; root is run as you"),
    Option("workdir", "w", "string", "the directory it starts in"),
)

GLOBAL = (
    Option("context", "c", "string", "taken as default only"),
    Option("debug", "D", "", "taken without effect"),
    Option("log-level", "l", "string", "taken without effect"),
    Option("version", "v", "", "print the version"),
)
RUN = Syntax(
    "run",
    "IMAGE [COMMAND] [ARG...]",
    "Run a program in a new container of the job",
    1,
    None,
    True,
    (
        *_PROCESS,
        Option("annotation", "", "map", "taken without effect; the engine is told none"),
        Option("cap-drop", "", "list", "taken without effect; every capability is dropped already"),
        Option("cgroupns", "", "string", "taken as private only"),
        Option("cidfile", "", "string", "write the container's id to a file, as you"),
        Option("cpu-shares", "c", "int", "weight of its CPU time among the job's containers"),
        Option("cpus", "", "decimal", "at most so many CPUs, within the job's"),
        Option("cpuset-cpus", "", "string", "these CPUs alone, of the job's"),
        _TRUST,
        Option("entrypoint", "", "string", "the program, instead of the image's; empty for none"),
        Option("gpus", "", "gpu-request", "all, a count or device=ID,…, of the job's"),
        Option("hostname", "h", "string", "the container's host name"),
        Option("init", "", "", "taken; there always is a first process that reaps"),
        Option("ipc", "", "string", "taken as private only"),
        Option("label", "l", "list", "KEY=VALUE, for docker ps --filter"),
        Option("log-driver", "", "string", "none, json-file or local; json-file is what docker logs reads"),
        Option("memory", "m", "bytes", "at most so much memory, within the job's"),
        Option("mount", "", "mount", "type=bind,source=PATH,target=PATH[,readonly] or type=tmpfs,target=PATH"),
        Option("name", "", "string", "its name within the job"),
        Option("network", "", "network", "a network of the site's or the job's, or container:NAME"),
        Option("network-alias", "", "list", "another name on that network"),
        Option("no-healthcheck", "", "", "taken; none is run"),
        Option("pids-limit", "", "int", "at most so many processes, within the job's"),
        _PLATFORM,
        Option("pull", "", "string", "always, missing or never"),
        Option("quiet", "q", "", "print nothing of the pull"),
        Option("read-only", "", "", "make the image's files read-only"),
        Option("restart", "", "string", "taken as no only"),
        Option("rm", "", "", "remove it at its end; without, it stays for docker logs until the job's end"),
        Option("security-opt", "", "list", "taken as no-new-privileges only, which holds already"),
        Option("shm-size", "", "bytes", "the size of /dev/shm"),
        Option("sig-proxy", "", "", "pass signals on to the program; true without"),
        Option("stop-signal", "", "string", "the signal docker stop sends"),
        Option("stop-timeout", "", "int", "seconds until docker stop kills"),
        Option("tmpfs", "", "list", "PATH[:size=SIZE], a directory in memory"),
        Option("volume", "v", "list", "SOURCE:TARGET[:ro|rw], a path of the node"),
        Option("net", "", "network", "", "network"),
        Option("net-alias", "", "list", "", "network-alias"),
    ),
)
EXEC = Syntax("exec", "CONTAINER COMMAND [ARG...]", "Run a program in a container of the job", 2, None, True, _PROCESS)
PULL = Syntax(
    "pull",
    "NAME[:TAG|@DIGEST]",
    "Download an image",
    1,
    1,
    options=(_TRUST, _PLATFORM, Option("quiet", "q", "", "print the name alone")),
)
IMAGES = Syntax(
    "images",
    "[REPOSITORY[:TAG]]",
    "List images you may use",
    0,
    1,
    options=(
        Option("all", "a", "", "taken without effect"),
        Option("digests", "", "", "print digests too"),
        _FILTER,
        _FORMAT,
        _NO_TRUNC,
        _QUIET_IDS,
    ),
)
PS = Syntax(
    "ps",
    "",
    "List the job's containers",
    options=(
        Option("all", "a", "", "those that have ended too"),
        _FILTER,
        _FORMAT,
        Option("last", "n", "int", "the last so many, running or not"),
        Option("latest", "l", "", "the last, running or not"),
        _NO_TRUNC,
        _QUIET_IDS,
    ),
)
LOGS = Syntax(
    "logs",
    "CONTAINER",
    "Print what a container wrote",
    1,
    1,
    options=(
        Option("details", "", "", "taken without effect"),
        Option("follow", "f", "", "go on until it ends"),
        Option("tail", "n", "string", "so many lines of the end"),
    ),
)
WAIT = Syntax("wait", CONTAINERS, "Wait for containers to end, and print their exit codes", 1, None)
STOP = Syntax(
    "stop",
    CONTAINERS,
    "Stop containers",
    1,
    None,
    options=(
        _SIGNAL,
        Option("timeout", "t", "int", "seconds until it is killed"),
        Option("time", "", "int", "", "timeout"),
    ),
)
KILL = Syntax("kill", CONTAINERS, "Send containers a signal", 1, None, options=(_SIGNAL,))
RM = Syntax(
    "rm",
    CONTAINERS,
    "Remove containers that have ended",
    1,
    None,
    options=(
        Option("force", "f", "", "those that run too"),
        Option("volumes", "v", "", "taken; no container has volumes of its own"),
    ),
)
INSPECT = Syntax(
    "inspect",
    "NAME|ID [NAME|ID...]",
    "Print what is known of containers, images and networks",
    1,
    None,
    options=(_FORMAT_F, Option("type", "", "string", "container, image or network")),
)
_INSPECT_THIS = (_FORMAT_F,)
CP = Syntax(
    "cp",
    "CONTAINER:SRC_PATH DEST_PATH, or SRC_PATH CONTAINER:DEST_PATH",
    "Copy files out of a container or into it, as you",
    2,
    2,
    options=(
        Option("archive", "a", "", "keep owners, where you may"),
        Option("follow-link", "L", "", "follow a link in SRC_PATH"),
        Option("quiet", "q", "", "taken; no progress is shown"),
    ),
)
LOGIN = Syntax(
    "login",
    "[SERVER]",
    "Keep a registry's password in your own file",
    0,
    1,
    options=(
        Option("password", "p", "string", "the password; other users of the node see it while this runs"),
        Option("password-stdin", "", "", "read it from standard input"),
        Option("username", "u", "string", "your name there"),
    ),
)
LOGOUT = Syntax("logout", "[SERVER]", "Forget a registry's password", 0, 1)
VERSION = Syntax("version", "", "Print versions", options=(_FORMAT_F,))
INFO = Syntax("info", "", "Print what is known of the node and the job", options=(_FORMAT_F,))
NETWORK_CREATE = Syntax(
    "network create",
    "NETWORK",
    "Make a network for this job's containers",
    1,
    1,
    options=(
        Option("attachable", "", "", "taken without effect"),
        Option("driver", "d", "string", "taken as bridge only"),
        Option("internal", "", "", "no way out of it"),
        Option("ipv4", "", "", "taken as true only"),
        Option("label", "", "list", "KEY=VALUE"),
        Option("scope", "", "string", "taken as local only"),
    ),
)
NETWORK_RM = Syntax(
    "network rm",
    "NETWORK [NETWORK...]",
    "Remove networks of the job",
    1,
    None,
    options=(Option("force", "f", "", "no error where there is none"),),
)
NETWORK_LS = Syntax("network ls", "", "List networks you may use", options=(_FILTER, _FORMAT, _NO_TRUNC, _QUIET_IDS))
NETWORK_INSPECT = Syntax(
    "network inspect",
    "NETWORK [NETWORK...]",
    "Print what is known of networks",
    1,
    None,
    options=(_FORMAT_F, Option("verbose", "v", "", "taken without effect")),
)
CONTAINER_INSPECT = Syntax(
    "container inspect", CONTAINERS, "Print what is known of containers", 1, None, options=_INSPECT_THIS
)
IMAGE_INSPECT = Syntax(
    "image inspect", "IMAGE [IMAGE...]", "Print what is known of images", 1, None, options=_INSPECT_THIS
)

OFFERED: dict[str, Syntax] = {
    syntax.name: syntax
    for syntax in (
        RUN,
        EXEC,
        PULL,
        IMAGES,
        PS,
        LOGS,
        WAIT,
        STOP,
        KILL,
        RM,
        INSPECT,
        CP,
        LOGIN,
        LOGOUT,
        VERSION,
        INFO,
        NETWORK_CREATE,
        NETWORK_RM,
        NETWORK_LS,
        NETWORK_INSPECT,
        CONTAINER_INSPECT,
        IMAGE_INSPECT,
    )
}
# Other spellings Docker's client has of the same commands.
SPELLINGS: dict[str, str] = {
    **{f"container {name}": name for name in ("run", "exec", "logs", "wait", "stop", "kill", "rm", "cp", "ps")},
    "container ls": "ps",
    "container list": "ps",
    "container remove": "rm",
    "image ls": "images",
    "image list": "images",
    "image pull": "pull",
    "network list": "network ls",
    "network remove": "network rm",
    "system info": "info",
}
GROUPS = ("container", "image", "network", "system")
