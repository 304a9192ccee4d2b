"""Messages, mounts, the container's configuration, the reaper's verdict."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.agent.findings import Verdict, judge
from pbsdock.core.errors import Refusal
from pbsdock.core.pathrules import PathRules, below
from pbsdock.core.plan import Mount
from pbsdock.core.record import Record, State
from pbsdock.engine import spec as container
from pbsdock.engine.base import ContainerSpec
from pbsdock.engine.docker.host_config import DEFAULTED, SET, create_body, host_config
from pbsdock.hook.streams import Demux
from pbsdock.host import mounts
from pbsdock.protocol import wire
from pbsdock.protocol.link import Link
from tests.conftest import ROOT
from tests.unit.test_policy import _plan

_VALUE = st.binary(max_size=40).map(lambda data: data.replace(b"\0", b""))


@given(st.lists(st.tuples(st.sampled_from(["env", "argv", "job"]), _VALUE)))
def test_messages_round_trip(pairs: list[tuple[str, bytes]]) -> None:
    """Any bytes but NUL arrive in order."""
    message = wire.Message("start")
    for key, value in pairs:
        message.fields.setdefault(key, []).append(value)
    data = wire.encode(message)
    found = wire.decode(data[wire.HEADER :])

    assert wire.length(data[: wire.HEADER], 1 << 20) == len(data) - wire.HEADER
    assert (found.op, found.fields) == (message.op, message.fields)


_NAME = st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=32).map(str.encode)
_NO_NAME = st.one_of(
    _VALUE.filter(lambda data: not data.isascii()),
    st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=33, max_size=60).map(str.encode),
)
_PAIRS = st.lists(st.tuples(_NAME, _VALUE), max_size=5)
_MALFORMED = st.one_of(
    st.tuples(_NAME, _PAIRS, _NAME).map(lambda one: (one[0], *sum(one[1], ()), one[2])),  # a key without its value
    st.tuples(_NO_NAME, _PAIRS).map(lambda one: (one[0], *sum(one[1], ()))),
    st.tuples(_NAME, _PAIRS, _NO_NAME, _VALUE, _PAIRS).map(
        lambda one: (one[0], *sum(one[1], ()), *one[2:4], *sum(one[4], ()))
    ),
)


@given(_MALFORMED.map(b"\0".join))
def test_malformed_messages_are_refused(payload: bytes) -> None:
    """A key without a value; an operation or a key that is too long, or no ASCII."""
    with pytest.raises(wire.WireError, match="^malformed message$"):
        wire.decode(payload)


@given(st.binary(max_size=200))
def test_whatever_arrives_is_a_message_or_refused(data: bytes) -> None:
    """A message is made of exactly the bytes that came: nothing is added, lost or changed. No other error comes."""
    try:
        found = wire.decode(data)
    except wire.WireError:
        return
    op, *rest = data.split(b"\0")
    pairs = [(key.encode(), value) for key, values in found.fields.items() for value in values]

    assert found.op.encode() == op
    assert sorted(pairs) == sorted(zip(rest[::2], rest[1::2], strict=True))


def test_messages_have_limits() -> None:
    """Too long, empty, or holding a NUL: refused."""
    with pytest.raises(wire.WireError, match="^message of 11 bytes; at most 10 are taken$"):
        wire.length((11).to_bytes(4, "big"), 10)
    with pytest.raises(wire.WireError):
        wire.length(b"\0\0\0\0", 10)
    with pytest.raises(wire.WireError):
        wire.encode(wire.Message("x", a=b"\0"))


def test_hooks_import_next_to_nothing() -> None:
    """The client keeps out of socket, json, signal, re and everything third-party: start-up is paid by every job."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import pbsdock.hook.client, pbsdock.hook.runner, pbsdock.hook.relay; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT / "lib")], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {"socket", "json", "signal", "re", "enum", "subprocess", "docker", "packaging", "structlog"} & set(
        loaded
    )


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=30)), max_size=8), st.integers(1, 7))
def test_frames_are_taken_apart_at_any_boundary(frames: list[tuple[int, bytes]], size: int) -> None:
    """However the stream is cut, each byte goes to its own stream in order."""
    data = b"".join(bytes([kind, 0, 0, 0]) + len(body).to_bytes(4, "big") + body for kind, body in frames)
    got: dict[int, bytes] = {1: b"", 2: b""}

    class Recording(Demux):
        def _write(self, piece: memoryview) -> None:
            got[self._fd] += bytes(piece)

    demux = Recording()
    for start in range(0, len(data), size):
        demux.feed(memoryview(data[start : start + size]))

    assert got == {kind: b"".join(body for one, body in frames if one == kind) for kind in (1, 2)}


CALL = container.Call(
    argv=("/bin/sh",),
    environment=(("A", "1"), ("LD_PRELOAD", "x"), ("PATH", "/host"), ("HOME", "/h")),
    cwd="/home/alice",
    umask=0o077,
    tty=False,
    shell_option="qsub -S",
)


MADE = container.Made(
    image_id="sha256:1",
    own_files=[("/root/passwd", "/etc/passwd")],
    cgroup_parent="/pbsdock/7",
    labels={"pbsdock.job": "7"},
)


def test_environment_is_filtered() -> None:
    """The job's variables but the host's own; the directive's last word counts."""
    assert container.environment(_plan("-e A=2 -e PATH=/mine a"), CALL) == ["A=2", "HOME=/h", "PATH=/mine"]


def _spec(directive: str) -> ContainerSpec:
    return container.for_job(
        _plan(directive),
        CALL,
        bound=[],
        rlimits={"Max open files": (10, 20), "Max address space": (1 << 30, -1)},
        wrapped=False,
        made=MADE,
    )


def test_host_config_gives_no_right() -> None:
    """Every field that could hurt others is set, whatever the directive says."""
    found = host_config(_spec("a"))

    assert set(found) == SET
    assert (found["Privileged"], found["CapAdd"], found["CapDrop"], found["SecurityOpt"]) == (
        False,
        [],
        ["ALL"],
        ["no-new-privileges"],
    )
    assert (found["RestartPolicy"]["Name"], found["LogConfig"]["Type"]) == ("no", "none")
    assert not SET & DEFAULTED


def test_create_body_says_what_the_spec_says() -> None:
    """Nothing is added to it on the way, and nothing of it is lost."""
    found = create_body(_spec("--tmpfs /t:size=1m --network none a"))
    host = found["HostConfig"]

    assert (found["Image"], found["Cmd"], found["Entrypoint"]) == ("sha256:1", ["/bin/sh"], [])
    assert (found["Labels"], found["Env"]) == ({"pbsdock.job": "7"}, ["A=1", "HOME=/h"])
    assert host["Mounts"] == [
        {
            "Type": "bind",
            "Source": "/root/passwd",
            "Target": "/etc/passwd",
            "ReadOnly": True,
            "BindOptions": {"Propagation": "rprivate"},
        }
    ]
    assert host["Tmpfs"] == {"/t": "rw,nosuid,nodev,mode=1777,size=1048576"}
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 10, "Hard": 20}]
    assert host["Sysctls"] == {"net.ipv4.ip_unprivileged_port_start": "1024"}
    assert (host["NetworkMode"], host["CgroupParent"]) == ("none", "/pbsdock/7")


def test_shell_line_sets_what_the_engine_cannot() -> None:
    """umask, memory rlimits soft before hard."""
    limits = {"Max address space": (1 << 30, 2 << 30), "Max data size": (-1, -1)}
    first, option, line, *rest = container.command(CALL, limits, "im'g")

    assert (first, option, rest) == ("/bin/sh", "-c", ["/bin/sh"])
    assert line.startswith("umask 0077; ulimit -Sv 1048576 2>/dev/null; ulimit -Hv 2097152 2>/dev/null; ")


_CURE = "; choose a shell it has with qsub -S"
_BROKEN = (
    " is there and cannot be run: its loader or interpreter is missing or closed to you, it is built for another machine,"
    " or its file system forbids to run programs"
)
LINES: dict[str, tuple[dict[str, object], str]] = {
    "missing": ({"argv": ("/bin/no'such",)}, f"image 'im'g' has no /bin/no'such{_CURE}"),
    "command": ({"argv": ("/bin/nosuch", "-x")}, "image 'im'g' has no /bin/nosuch"),
    "directory": ({"argv": ("/etc",)}, f"image 'im'g': /etc is a directory, not a program{_CURE}"),
    "not executable": ({"argv": ("/etc/passwd",)}, f"image 'im'g': /etc/passwd is not executable for you{_CURE}"),
    "closed": (
        {"argv": ("/root/a/b",)},
        f"image 'im'g': the directory /root on the way to /root/a/b is closed to you{_CURE}",
    ),
    "broken": ({"argv": ("{tmp}/broken",)}, f"image 'im'g': {{tmp}}/broken{_BROKEN}{_CURE}"),
    "interpreter": ({"interpreter": "/a;b"}, "image 'im'g' has no /a;b, which the script's first line names"),
    "interpreter closed": (
        {"interpreter": "/root/a"},
        "image 'im'g': the directory /root on the way to /root/a is closed to you (which the script's first line names)",
    ),
    "env": (
        {"interpreter": "/usr/bin/env", "env_finds": "no$such"},
        "image 'im'g' has no program no$such in its PATH, which the script's first line names",
    ),
    "carriage return": (
        {"interpreter": "/bin/sh\r"},
        "the script's first line ends with a carriage return (CRLF), so that '/bin/sh\\r' is looked for as its"
        " interpreter; remove them with sed -i 's/\\r$//' SCRIPT",
    ),
}


@pytest.mark.parametrize("shell", [["dash"], ["bash", "--posix"], ["bash"], ["busybox", "sh"]])
@pytest.mark.parametrize("name", LINES)
def test_shell_line_says_why(shell: list[str], name: str, tmp_path: Path) -> None:
    """Every shell that an image's /bin/sh may be, as a user, on this host."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not here")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        broken = Path(directory) / "broken"
        broken.write_text("#!/no/such/interpreter\n")
        broken.chmod(0o755)
        options, says = LINES[name]
        options = {**options, "argv": tuple(one.format(tmp=directory) for one in options.get("argv", ("/bin/sh",)))}  # type: ignore[attr-defined]
        line = container.command(replace(CALL, **options), {}, "im'g")  # type: ignore[arg-type]
        done = subprocess.run(
            [*shell, *line[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            user=65534,
            group=65534,
            check=False,
        )
        says = says.replace("{tmp}", directory)

    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.splitlines()[-1] == f"pbsdock: {says}"
    assert name == "broken" or len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("shell", [["dash"], ["bash"], ["busybox", "sh"]])
def test_shell_line_leaves_nothing_behind(shell: list[str]) -> None:
    """The command has the environment it was given, also names that the line uses, and its own exit status."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not here")
    call = replace(CALL, argv=("/bin/sh", "-c", "env; exit 127"), interpreter="/usr/bin/env", env_finds="sh")
    line = container.command(call, {}, "img", workdir="/")
    given = {"d": "1", "why": "2", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*shell, *line[1:]], env=given, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (127, "")
    assert set(given.items()) <= {tuple(each.split("=", 1)) for each in done.stdout.splitlines()}


def test_shell_line_looks_at_the_work_directory() -> None:
    """It is where the line is run, as the engine has put it there."""
    line = container.command(CALL, {}, "img", workdir="/root")
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *line],
        cwd="/root", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 125
    assert done.stderr == f"pbsdock: {container.closed_workdir('img', '/root')}\n"


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        ("", ()),
        ("/bin/env A=b", ("/bin/env", "A=b")),
        ("'/opt/a tool' x", ("/opt/a tool", "x")),
        ("sh", ("sh", "-c", 'exec "$0" "$@"')),
        ("/bin/bash -l", ("/bin/bash", "-l", "-c", 'exec "$0" "$@"')),
        ("bash -lc", ("bash", "-lc", 'exec "$0" "$@"')),
        ("bash --norc", ("bash", "--norc", "-c", 'exec "$0" "$@"')),
        ("bash /entry.sh", ("bash", "/entry.sh")),
        ("bash -c 'x; \"$@\"'", ("bash", "-c", 'x; "$@"')),
    ],
)
def test_entrypoint_in_words(words: str, argv: tuple[str, ...]) -> None:
    """A shell runs what is behind it, and not as its script."""
    assert container.entrypoint(words) == argv


@pytest.mark.parametrize(
    ("path", "prefix", "holds"),
    [
        ("/scratch/a", "/scratch", True),
        ("/scratch", "/scratch", True),
        ("/scratch2/a", "/scratch", False),
        ("/", "/scratch", False),
    ],
)
def test_prefixes_are_components(path: str, prefix: str, holds: bool) -> None:
    """/scratch2 is not inside /scratch."""
    assert below(path, prefix) is holds


def test_mounts_are_looked_at_as_the_user(tmp_path: Path) -> None:
    """What the user cannot reach cannot be mounted, and root's own rights are back afterwards."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "inner").mkdir()
    volume = Mount(
        source=str(closed / "inner"), target="/x", read_only=False, origin="volume", required=True, where="s:1:2"
    )
    with pytest.raises(Refusal) as caught:
        mounts.resolve([volume], mounts.User(uid=65534, gid=65534, groups=()), PathRules(allow=("/",)))

    assert str(caught.value) == f"s:1:2: {closed}/inner cannot be mounted: Permission denied (looked at as the user)"
    assert os.listdir(closed) == ["inner"]


def test_exchanged_mounts_are_noticed(tmp_path: Path) -> None:
    """A source that became another directory, or a link, is not what was checked."""
    (tmp_path / "a").mkdir()
    volume = Mount(source=str(tmp_path / "a"), target="/x", read_only=False, origin="volume", required=True)
    bound, _ = mounts.resolve([volume], mounts.User(uid=0, gid=0, groups=()), PathRules(allow=(str(tmp_path),)))
    os.close(mounts.open_unchanged(bound[0], None))
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").symlink_to("/etc")

    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        mounts.open_unchanged(bound[0], None)


@pytest.mark.parametrize(
    ("boot", "files", "age", "verdict"),
    [
        ("b", {"7.vm.JB"}, 9000, Verdict.LIVE),
        ("b", set(), 119, Verdict.YOUNG),
        ("b", set(), 121, Verdict.JOB_GONE),
        ("other", {"7.vm.JB"}, 1, Verdict.OTHER_BOOT),
    ],
)
@pytest.mark.parametrize("state", ["preparing", "ready", "running"])
def test_verdicts(state: str, boot: str, files: set[str], age: float, verdict: Verdict) -> None:
    """Alive by mom's own file; young by the last sign of life; dead by another boot."""
    record = Record.new(job_id="7.vm", safe="7.vm", uid=1, user="a", node="n", boot_id=boot, now=1000.0, nonce="aa")
    record.note(job_file="7.vm.JB", alive_at=1000.0)
    record._state = State(state)

    assert judge(record, boot="b", job_files=frozenset(files), up_s=1000.0 + age, grace_s=120) is verdict


@pytest.mark.parametrize(
    ("files", "age", "verdict"),
    [
        ({"7.vm.JB"}, 9000, Verdict.LIVE),
        (set(), 9, Verdict.YOUNG),
        (set(), 11, Verdict.JOB_GONE),
    ],
)
def test_verdicts_of_ended_jobs(files: set[str], age: float, verdict: Verdict) -> None:
    """Nothing of it is awaited any more but its epilogue."""
    record = Record.new(job_id="7.vm", safe="7.vm", uid=1, user="a", node="n", boot_id="b", now=1000.0, nonce="aa")
    record.note(job_file="7.vm.JB", alive_at=1000.0)
    record._state = State.ENDED

    assert judge(record, boot="b", job_files=frozenset(files), up_s=1000.0 + age, grace_s=120) is verdict


def test_descriptors_belong_to_the_message_that_counts_them(tmp_path: Path) -> None:
    """The kernel delivers two messages in one piece, descriptors and all: they are not the first one's."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    link = Link(str(tmp_path / "s"), 5.0)
    peer, _ = listener.accept()
    read, write = os.pipe()
    peer.sendall(wire.encode(wire.Message("notice", sentence="x")))
    socket.send_fds(peer, [wire.encode(wire.Message("started", fds=1))], [write])
    time.sleep(0.05)

    assert [(message.op, len(fds)) for message, fds in (link.recv(), link.recv())] == [("notice", 0), ("started", 1)]
    for one in (read, write):
        os.close(one)
    peer.close()
    link.close()
    listener.close()
