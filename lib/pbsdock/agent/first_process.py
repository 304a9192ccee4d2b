"""The first process of a job's container as root deals with it: its directory, its gate, its limits, the ends it wrote.

The directory is a small file system of its own that belongs to the job's user, below a directory of root's that nobody
else can enter: whoever is to talk to the first process is given a descriptor of it (see ``init/README.md``).
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pbsdock.core.errors import NodeFault
from pbsdock.core.paths import Paths
from pbsdock.engine.base import ContainerState, Rlimits
from pbsdock.engine.spec import parse_limits
from pbsdock.host import installed, syscalls
from pbsdock.host.process import alive
from pbsdock.protocol import init

LEADER = "leader"
TARGET = "/run/pbsdock/init"  # the directory in the container
SCRATCH = "scratch"  # in it: a directory for the little that MPI's processes write, where that is not /tmp
PROGRAM = "/run/pbsdock/pbsdock-init"  # likewise
_SIZE = "size=8m,nr_inodes=4096"  # a page for each end, of which the agent tidies up those that were told
_LISTENS_S = 10.0
_ANSWERS_S = 10.0
# The kernel's name in /proc/PID/limits (proc(5)) -> its number (asm-generic/resource.h).
RLIMITS = {
    "Max cpu time": resource.RLIMIT_CPU,
    "Max file size": resource.RLIMIT_FSIZE,
    "Max data size": resource.RLIMIT_DATA,
    "Max stack size": resource.RLIMIT_STACK,
    "Max core file size": resource.RLIMIT_CORE,
    "Max resident set": resource.RLIMIT_RSS,
    "Max processes": resource.RLIMIT_NPROC,
    "Max open files": resource.RLIMIT_NOFILE,
    "Max locked memory": resource.RLIMIT_MEMLOCK,
    "Max address space": resource.RLIMIT_AS,
    "Max file locks": 10,
    "Max pending signals": resource.RLIMIT_SIGPENDING,
    "Max msgqueue size": resource.RLIMIT_MSGQUEUE,
    "Max nice priority": resource.RLIMIT_NICE,
    "Max realtime priority": resource.RLIMIT_RTPRIO,
    "Max realtime timeout": resource.RLIMIT_RTTIME,
}


def program(paths: Paths) -> Path:
    """Where this installation has it."""
    return installed.first_process(paths)


def make_directory(path: Path, uid: int, gid: int) -> None:
    """Make the directory of a job's first process. Raises OSError."""
    path.mkdir(mode=0o700)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("tmpfs", str(path), "tmpfs", flags, f"mode=0700,uid={uid},gid={gid},{_SIZE}")
    (path / SCRATCH).mkdir(mode=0o700)
    os.chown(path / SCRATCH, uid, gid)


def open_directory(path: Path) -> int:
    """A descriptor of it, by which a process that cannot go there can. Raises OSError."""
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


@contextmanager
def connected(path: Path, pid: int) -> Iterator[init.Connection]:
    """A connection to the first process *pid*, and to nobody else who may listen in its user's directory.

    Raises NodeFault if it does not listen within ten seconds, or is over.
    """
    connection = _connect(path, pid)
    try:
        if (who := connection.listener()) != pid:
            raise NodeFault("first-process", f"process {who} listens in the place of the container's first one, {pid}")
        yield connection
    except init.InitError as error:
        raise NodeFault("first-process", f"the container's first process gave no answer: {error}") from None
    finally:
        connection.close()


def _connect(path: Path, pid: int) -> init.Connection:
    deadline = time.monotonic() + _LISTENS_S
    directory = open_directory(path)
    try:
        while True:
            try:
                # Not by its path, which can be longer than a socket's name may be (unix(7)).
                return init.Connection(f"/proc/self/fd/{directory}/{init.SOCKET}", _ANSWERS_S)
            except init.InitError as error:
                if not alive(pid):
                    raise NodeFault(
                        "first-process", "the container's first process ended before the job began"
                    ) from None
                if time.monotonic() > deadline:
                    sentence = f"the container's first process does not listen: {error}"
                    raise NodeFault("first-process", sentence) from None
                time.sleep(0.001)
    finally:
        os.close(directory)


def open_gate(connection: init.Connection, limits: Mapping[int, tuple[int, int]], hold: int = init.HOLD_NONE) -> None:
    """Let the job's owner in, under the hard ones of these limits; what is run is then held as *hold* says.

    Raises InitError, NodeFault.
    """
    connection.send(init.encode_open({number: (hard, hard) for number, (_soft, hard) in limits.items()}, hold))
    answer = connection.receive()
    if answer.kind != init.DONE:
        raise NodeFault("first-process", f"the container's first process refused to let the job in: {answer.step}")


def send_signal(path: Path, pid: int, name: str, number: int) -> None:
    """To all of the session of what runs by that *name*. Raises NodeFault."""
    with connected(path, pid) as connection:
        connection.send(init.encode_signal(name, number))
        connection.receive()


def within(pid: int, limits: Rlimits) -> dict[int, tuple[int, int]]:
    """The job's limits by their numbers, soft and hard, as far as what the first process *pid* starts can have them.

    Its hard limits are the engine's, raised where that takes more than the kernel lets anybody but root have.
    Raises OSError if it is over.
    """
    with open(f"/proc/{pid}/limits", encoding="ascii") as file:
        its_own = parse_limits(file.read())
    found = {}
    for name, number in RLIMITS.items():
        if name not in limits or name not in its_own:
            continue
        soft, hard = limits[name]
        _soft, most = its_own[name]
        if _is_more(hard, most):
            try:
                resource.prlimit(pid, number, (hard, hard))
            except (ValueError, PermissionError):  # no CAP_SYS_RESOURCE, or more than fs.nr_open
                soft, hard = (most if _is_more(soft, most) else soft), most
        found[number] = (soft, hard)
    return found


def _is_more(limit: int, than: int) -> bool:
    """Of two limits, of which -1 is none."""
    return than != -1 and (limit == -1 or limit > than)


def is_program_of(pid: int, path: Path) -> bool:
    """Whether process *pid* runs that program. Raises OSError if it is over."""
    found, ours = os.stat(f"/proc/{pid}/exe"), path.stat()
    return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)


def environment_of(pid: int) -> dict[str, str]:
    """The variables process *pid* was started with: the image's own. Bytes that are no text become surrogates.

    Raises OSError if it is over.
    """
    with open(f"/proc/{pid}/environ", "rb") as file:
        pairs = [pair.partition(b"=") for pair in file.read().split(b"\0") if b"=" in pair]
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def read_end(path: Path, name: str) -> init.Answer | None:
    """How what ran by that *name* has ended, as the first process wrote it down; None if it has not."""
    return init.read_status(str(path), name)


def forget_end(path: Path, name: str) -> None:
    """Make room: it was told."""
    with suppress(OSError):
        os.unlink(f"{path}/{name}.status")


def is_polite(end: init.Answer) -> bool:
    """Whether a signal that can be trapped has ended it: then the first process waits for what it has left running, a
    moment or, after SIGTERM, as long as it was told. Pure."""
    return end.kind == init.ENDED and end.signal not in (0, signal.SIGKILL)


def exit_code(end: init.Answer, *, not_run: int) -> int:
    """The exit code a shell would report (128 and the signal); *not_run* for what could not be started. Pure."""
    return end.code if end.kind == init.ENDED else not_run


def state_of(end: init.Answer, *, not_run: int) -> ContainerState:
    """The state of a container whose leader has ended so. Pure."""
    return ContainerState(exit_code=exit_code(end, not_run=not_run))
