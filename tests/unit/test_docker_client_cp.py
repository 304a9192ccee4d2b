"""`docker cp` of init/docker.c: two directories, of which one stands for a container's root, and a stand-in of the agent.

The rules are those of Docker's own page on `docker container cp`.
"""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.admin.setup import first_process
from pbsdock.protocol import wire
from tests.support.docker_client import StandInAgent
from tests.support.first_process import OWNER, build

pytestmark = pytest.mark.timeout(120)
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="another user is needed")


@pytest.fixture(scope="module", params=["installed", "sanitized"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is installed, and with the compiler's sanitizers, which end it at the first fault."""
    return build(tmp_path_factory, sanitized=request.param == "sanitized", of=first_process.DOCKER)


class Place:
    """A user's directory and a container's root."""

    def __init__(self, program: Path, base: Path) -> None:
        self.agent = StandInAgent(program)
        self.local, self.root = base / "local", base / "root"
        self.outside = base / "outside"
        for directory in (self.local, self.root, self.outside):
            directory.mkdir()
        (self.outside / "secret").write_text("secret")
        self.said = b""

    def copy(self, direction: str, source: str, target: str, *, link: int = 0, user: int | None = None) -> wire.Message:
        """The client's answer; what it wrote to standard error is in ``said``."""
        options: dict[str, object] = {"cwd": self.local}
        if user is not None:
            options |= {"user": user, "group": user, "extra_groups": []}
        call = self.agent.call("cp", **options)
        root = os.open(self.root, os.O_PATH)
        answer = call.ask("cp", fds=[root], direction=direction, source=source, target=target, link=link)
        os.close(root)
        self.said = call.end()[1]
        return answer

    def out(self, source: str, target: str = ".", **more: int) -> wire.Message:
        """From the container."""
        return self.copy("out", source, target, **more)

    def into(self, source: str, target: str, **more: int) -> wire.Message:
        """Into the container."""
        return self.copy("in", source, target, **more)

    def close(self) -> None:
        """Tidy up."""
        assert (self.outside / "secret").read_text() == "secret"
        assert [path.name for path in self.outside.iterdir()] == ["secret"]
        self.agent.close()
        # Deeper than Python's own recursion, which pytest would end at.
        subprocess.run(["rm", "-rf", self.local, self.root], check=True)


@pytest.fixture
def place(program: Path, tmp_path: Path) -> Iterator[Place]:
    made = Place(program, tmp_path)
    try:
        yield made
    finally:
        made.close()


def _tree(top: Path) -> dict[str, str]:
    """Names below *top*: a file's text, a link's target after an arrow, "/" for a directory."""
    found = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        found[name] = f"-> {os.readlink(path)}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
    return found


def _make(top: Path, **files: str) -> None:
    """Files by their names, "__" for a slash."""
    for name, text in files.items():
        path = top / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# -- Docker's table -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize(
    ("source", "target", "made"),
    [
        ("file", "new", {"new": "text"}),
        ("file", "old", {"old": "text"}),
        ("file", "there", {"there/file": "text"}),
        ("file", "there/", {"there/file": "text"}),
        ("file", "there/.", {"there/file": "text"}),
        ("tree", "new", {"new": "/", "new/a": "a", "new/b": "/", "new/b/c": "c", "new/b/l": "-> ../a"}),
        ("tree/", "new/", {"new": "/", "new/a": "a", "new/b": "/", "new/b/c": "c", "new/b/l": "-> ../a"}),
        ("tree/.", "new", {"new": "/", "new/a": "a", "new/b": "/", "new/b/c": "c", "new/b/l": "-> ../a"}),
        ("tree", "there", {"there/tree": "/", "there/tree/a": "a", "there/tree/b": "/", "there/tree/b/c": "c"}),
        ("tree/.", "there", {"there/a": "a", "there/b": "/", "there/b/c": "c", "there/b/l": "-> ../a"}),
        ("./there/../tree/b/c", "there//./new", {"there/new": "c"}),
    ],
)
def test_where_it_goes(place: Place, direction: str, source: str, target: str, made: dict[str, str]) -> None:
    """Every line of Docker's table, both ways."""
    start, end = (place.local, place.root) if direction == "in" else (place.root, place.local)
    _make(start, file="text", tree__a="a", tree__b__c="c")
    (start / "tree/b/l").symlink_to("../a")
    (start / "there").mkdir()
    _make(end, old="old and longer", there__other="other")

    answer = place.copy(direction, source, target)

    assert answer.op == "copied", answer.text("reason")
    found = _tree(end)
    assert found["there/other"] == "other"
    assert {name: found.get(name) for name in made} == made
    assert set(found) - {"old", "there", "there/other", "there/tree/b/l"} == set(made) - {"old"}
    assert place.said == b""


@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize(
    ("source", "target", "error", "says"),
    [
        ("file", "new/", 2, "no such directory: {end}/new"),
        ("file", "none/new", 2, "there is no directory for {end}/none/new"),
        ("tree", "old", 20, "cannot copy a directory to a file: {end}/old"),
        ("file", "old/", 20, "{end}/old is not a directory"),
        ("file/.", "new", 20, "open {start}/file: Not a directory"),
        ("none", "new", 2, "there is no {start}/none"),
        ("tree", "there", 20, 'cannot overwrite non-directory "tree" with directory "{start}/tree"'),
        ("file", "there", 21, 'cannot overwrite directory "file" with non-directory "{start}/file"'),
        ("file", "dangling", 2, "{end}/dangling is a symbolic link to what is not there"),
        ("file", "fifo", 22, "{end}/fifo is a device, a fifo or a socket"),
        ("", "new", 22, "a path is empty"),
        ("x" * 5000, "new", 36, "a path is longer than 4096 bytes"),
    ],
)
def test_what_is_refused(place: Place, direction: str, source: str, target: str, error: int, says: str) -> None:
    """One sentence; nothing was changed."""
    start, end = (place.local, place.root) if direction == "in" else (place.root, place.local)
    _make(start, file="text", tree__a="a")
    _make(end, old="old", there__tree="file", there__file__x="x")
    (end / "dangling").symlink_to("nothing")
    os.mkfifo(end / "fifo")
    before = sorted(str(path) for path in end.rglob("*"))

    answer = place.copy(direction, source, target)

    local = str(place.local)
    words = {"start": local, "end": ""} if direction == "in" else {"start": "", "end": local}
    assert (answer.op, answer.number("errno")) == ("failed", error)
    assert answer.text("reason").removesuffix(" in the container") == says.format(**words)
    assert sorted(str(path) for path in end.rglob("*")) == before


def test_the_source_itself_is_a_link(place: Place) -> None:
    """It is copied as one; with -L what it leads to is, by the link's name. Links further down stay links."""
    _make(place.root, real__file="text")
    (place.root / "link").symlink_to("/real")
    (place.root / "real/inner").symlink_to("/outside")

    assert place.out("/link").op == "copied"
    assert _tree(place.local) == {"link": "-> /real"}
    (place.local / "link").unlink()
    assert place.out("/link", link=1).op == "copied"
    assert _tree(place.local) == {"link": "/", "link/file": "text", "link/inner": "-> /outside"}
    assert place.out("/link/.", "content").op == "copied"
    assert (place.local / "content/file").read_text() == "text"


def test_modes_and_times(place: Place) -> None:
    """As they were, but for the set-user-id and set-group-id bits, which would be another's."""
    _make(place.root, tree__file="x", tree__tool="x", tree__d__f="x")
    (place.root / "tree/link").symlink_to("file")
    for name, mode in (("file", 0o604), ("tool", 0o6755), ("d", 0o1731)):
        (place.root / "tree" / name).chmod(mode)
    for name in ("file", "tool", "d", "link", "."):
        os.utime(place.root / "tree" / name, ns=(10**18, 10**18 + 123), follow_symlinks=False)

    assert place.out("tree").op == "copied"

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (place.local / "tree").iterdir()}
    assert (modes["file"], modes["tool"], modes["d"]) == (0o604, 0o755, 0o1731)
    for name in ("file", "tool", "d", "link", "."):
        assert (place.local / "tree" / name).lstat().st_mtime_ns == 10**18 + 123


def test_special_files_are_left_out(place: Place) -> None:
    """A line each; nothing waits for a fifo, and the rest is copied."""
    _make(place.root, tree__file="text")
    os.mkfifo(place.root / "tree/fifo")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(place.root / "tree/socket"))

    assert place.out("tree").op == "copied"

    assert _tree(place.local) == {"tree": "/", "tree/file": "text"}
    assert sorted(place.said.splitlines()) == [
        b"docker: not copied: /tree/fifo is a fifo",
        b"docker: not copied: /tree/socket is a socket",
    ]


@needs_root
def test_as_the_user(place: Place) -> None:
    """What the user cannot read is left out with a line, and told; what is made is the user's."""
    _make(place.root, tree__open="text", tree__closed="secret", tree__shut__in="secret")
    (place.root / "tree/closed").chmod(0o600)
    (place.root / "tree/shut").chmod(0o700)
    for directory in (place.local.parent, *place.local.parent.parents):
        if directory.stat().st_mode & 0o777 == 0o700:
            directory.chmod(0o711)
    os.chown(place.local, OWNER, OWNER)

    answer = place.out("tree", user=OWNER)

    assert (answer.op, answer.text("reason")) == ("failed", "not all was copied: 2 left out")
    assert sorted(place.said.splitlines()) == [
        b"docker: not copied: /tree/closed: Permission denied",
        b"docker: not copied: /tree/shut: Permission denied",
    ]
    assert (place.local / "tree/open").stat().st_uid == OWNER
    assert place.into("tree/open", "/etc", user=OWNER).text("reason") == "create etc: Permission denied"


def test_an_old_file_and_what_else_has_it(place: Place) -> None:
    """One in a directory is replaced, so that its other names keep their content; by its own name it is written."""
    _make(place.root, tree__file="new", plain="new")
    _make(place.local, tree__file="old", plain="old")
    os.link(place.local / "tree/file", place.local / "other")
    (place.local / "link").symlink_to("plain")

    assert place.out("tree").op == "copied"
    assert place.out("plain", "link").op == "copied"

    assert (place.local / "other").read_text() == "old"
    assert (place.local / "tree/file").read_text() == "new"
    assert (place.local / "plain").read_text() == "new"


def test_a_directory_into_itself(place: Place) -> None:
    """As with a directory that is mounted in the container: it ends, and no file is lost."""
    place.root.rmdir()
    place.root.symlink_to(place.local)
    place.root = place.local
    _make(place.local, file="text", tree__a="a")

    assert place.into(".", "/new").op == "failed"
    assert _tree(place.local / "new") == {"file": "text", "tree": "/", "tree/a": "a"}
    assert place.into("tree/.", "/tree").op == "failed"
    before = (place.local / "file").stat().st_ino
    assert place.into("file", "/").op == "copied"
    assert place.into("file", "/file").op == "copied"
    assert (place.local / "file").stat().st_ino == before
    assert (place.local / "file").read_text() == "text"
    assert (place.local / "tree/a").read_text() == "a"


@needs_root
def test_what_is_mounted_in_the_container(place: Place) -> None:
    """In a mount namespace of its own, whose root is reached by a process in it: mounts are as its processes see them."""
    (place.root / "mnt").mkdir()
    _make(place.local, file="mine")
    script = f"mount -t tmpfs tmpfs {place.root}/mnt && echo theirs > {place.root}/mnt/file && echo && read line"
    inside = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert inside.stdout is not None
    assert inside.stdout.readline() == b"\n"
    plain, place.root = place.root, Path(f"/proc/{inside.pid}/root{place.root}")
    try:
        assert place.out("/mnt/file", "got").op == "copied"
        assert place.into("file", "/mnt/new").op == "copied"
        assert (place.root / "mnt/new").read_text() == "mine"
    finally:
        place.root = plain
        inside.communicate(b"\n")
    assert (place.local / "got").read_text() == "theirs\n"
    assert list((plain / "mnt").iterdir()) == []


def test_much(place: Place) -> None:
    """Large files, many of them, and directories deeper than there are descriptors at first."""
    top = place.root / "tree"
    top.mkdir()
    (top / "large").write_bytes(os.urandom(3_000_001))
    for number in range(300):
        (top / f"{number}").write_text("x")
    deep = os.open(top, os.O_RDONLY)
    for _level in range(700):
        os.mkdir("d", dir_fd=deep)
        inner = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)

    answer = place.out("tree")

    assert (answer.op, answer.number("bytes")) == ("copied", 3_000_301)
    assert (place.local / "tree/large").read_bytes() == (top / "large").read_bytes()
    assert subprocess.run(["diff", "-r", "/dev/null", "/dev/null"], check=False).returncode == 0
    found = subprocess.run(["find", place.local, "-type", "d", "-name", "d"], capture_output=True, check=True).stdout
    assert len(found.splitlines()) == 700


def test_too_deep(place: Place) -> None:
    """A sentence, and no fault."""
    deep = os.open(place.root, os.O_RDONLY)
    for _level in range(1100):
        os.mkdir("d" * 100, dir_fd=deep)
        inner = os.open("d" * 100, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)

    answer = place.out("d" * 100)

    assert answer.op == "failed"
    assert answer.text("reason").endswith("is deeper than 1000 directories")


# -- hostile containers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "/link/secret",
        "/up/secret",
        "/../outside/secret",
        "/a/../../outside/secret",
        "/magic/root/etc/hostname",
        "/proc/self/root/etc/hostname",
    ],
)
@pytest.mark.parametrize("link", [0, 1])
def test_no_path_leads_out(place: Place, source: str, link: int) -> None:
    """Absolute links, links with dots, dots, and the links of a /proc: all have the container's root for theirs."""
    (place.root / "a").mkdir()
    (place.root / "link").symlink_to(place.outside)
    (place.root / "up").symlink_to("../../../../../../../../.." + str(place.outside))
    (place.root / "magic").symlink_to("/proc/self")
    (place.root / "proc").symlink_to("/real-proc")

    answer = place.out(source, "got", link=link)

    assert (answer.op, answer.number("errno")) == ("failed", 2)
    assert not (place.local / "got").exists()


@needs_root
def test_no_magic_link_leads_out(place: Place) -> None:
    """With a real /proc in the container, whose links lead past every root."""
    (place.root / "proc").mkdir()
    subprocess.run(["mount", "-t", "proc", "proc", place.root / "proc"], check=True)
    try:
        for link in (0, 1):
            answer = place.out("/proc/self/root/etc/hostname", "got", link=link)
            assert (answer.op, answer.number("errno")) == ("failed", 40)
            answer = place.into("/etc/hostname", f"/proc/self/cwd/{link}", link=link)
            assert (answer.op, answer.number("errno")) == ("failed", 40)
    finally:
        subprocess.run(["umount", place.root / "proc"], check=True)
    assert not list(place.local.iterdir())


def test_no_target_leads_out(place: Place) -> None:
    """Neither what was named nor what is below it: links there are replaced or refused, and never followed."""
    _make(place.local, file="mine", tree__secret="mine", tree__sub__secret="mine")
    (place.root / "link").symlink_to(place.outside)
    (place.root / "file").symlink_to(place.outside / "secret")
    (place.root / "there/tree").mkdir(parents=True)
    (place.root / "there/tree/secret").symlink_to(place.outside / "secret")
    (place.root / "there/tree/sub").symlink_to(place.outside)

    assert place.into("file", "/link/secret").op == "failed"
    assert place.into("file", "/file").op == "failed"
    assert place.into("tree/.", "/link").op == "failed"
    assert place.into("tree", "/there").op == "failed"
    assert place.into("tree/secret", "/there/tree").op == "copied"
    assert not (place.root / "there/tree/secret").is_symlink()
    assert place.into("file", "/../../../../../../../../tmp-x").op == "copied"
    assert (place.root / "tmp-x").read_text() == "mine"


def test_no_local_target_leads_out(place: Place) -> None:
    """A tree of the container's that writes a link first and then through it, in either order of names."""
    for one, other in (("a", "b"), ("b", "a")):
        _make(place.root, **{f"tree__{other}__secret": "theirs"})
        (place.local / "tree").mkdir(exist_ok=True)
        (place.local / "tree" / other).symlink_to(place.outside)
        (place.root / "tree" / one).symlink_to(place.outside)
        assert place.out("tree").op == "failed"
        subprocess.run(["rm", "-r", place.local / "tree", place.root / "tree"], check=True)


class Swapping:
    """Within ``with``: directories become links to what is outside, and back, as fast as can be."""

    def __init__(self, directories: list[Path], outside: Path) -> None:
        self._pairs = []
        for number, directory in enumerate(directories):
            link = directory.parent.parent.parent / f"link-{number}"
            link.symlink_to(outside)
            self._pairs.append((os.fsencode(directory), os.fsencode(link)))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._swap)

    def _swap(self) -> None:
        exchange = ctypes.CDLL(None).renameat2
        while not self._stop.is_set():
            for directory, link in self._pairs:
                for _back in range(2):
                    exchange(-100, directory, -100, link, 2)  # AT_FDCWD, RENAME_EXCHANGE (rename(2))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


_RACE_S = int(os.environ.get("PBSDOCK_FUZZ_S", "2"))


def test_sources_that_are_swapped_in_the_middle(place: Place) -> None:
    """What comes is the container's, or a link as one."""
    for number in range(30):
        _make(place.root, **{f"tree__{number}__d__secret": "theirs"})
    until = time.monotonic() + _RACE_S
    with Swapping([place.root / f"tree/{number}/d" for number in range(30)], place.outside):
        while time.monotonic() < until:
            place.out("tree")
            place.out("tree/3/d/secret")
            texts = {path.read_text() for path in place.local.rglob("secret") if not path.parent.is_symlink()}
            assert texts <= {"theirs"}
            subprocess.run(["rm", "-rf", place.local / "tree", place.local / "secret"], check=True)


def test_targets_that_are_swapped_in_the_middle(place: Place) -> None:
    """The same on the side that is written: nothing outside is touched (see ``Place.close``)."""
    for number in range(30):
        _make(place.local, **{f"tree__{number}__d__secret": "mine"})
        (place.root / f"tree/{number}/d").mkdir(parents=True)
    until = time.monotonic() + _RACE_S
    with Swapping([place.root / f"tree/{number}/d" for number in range(30)], place.outside):
        while time.monotonic() < until:
            place.into("tree", "/")
            place.into("tree/3/d/secret", "/tree/3/d/secret")
            place.into("tree/3/d/secret", "/tree/3/d")
