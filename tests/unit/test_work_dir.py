"""The directory of qsub and where a job starts: whose it must be, the names it has, and what is said without it."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pbsdock.agent import work_dir
from pbsdock.core.errors import Refusal
from pbsdock.core.facts import Bound
from pbsdock.core.pathrules import Closed, PathRules, ReadOnly
from pbsdock.core.plan import Mount, Plan
from pbsdock.core.record import Record
from pbsdock.engine.spec import Call
from pbsdock.host import mounts
from pbsdock.rm.torque.words import WORDS
from tests.unit.test_core import CALL, _plan

UID = 64001
USER = mounts.User(uid=UID, gid=UID, groups=(UID + 1,))
RULES = PathRules(home="/home/alice", allow=("/home/alice", "/data", "/data/ref:ro", "/var/run-dirs"))


@pytest.mark.parametrize(
    ("path", "is_own", "closed"),
    [
        ("/data/x", False, None),
        ("/home/alice/x", False, None),
        ("/var/run-dirs/x", False, None),
        ("/scratch/x", True, None),
        ("/opt/x", True, None),
        (
            "/scratch/x",
            False,
            "neither you nor a group of yours owns it and may write to it, and this site allows paths",
        ),
        *[(f"{top}/x", True, f"{top} is the system's") for top in ("/etc", "/usr", "/var", "/lib64", "/root", "/bin")],
        ("/usr", True, "/usr is the system's"),
        ("/users", True, None),
    ],
)
def test_whose_the_directory_of_qsub_is(path: str, is_own: bool, closed: str | None) -> None:
    """The user's own, or what the site allows; never the system's unless the site says so."""
    if closed is None:
        RULES.check_work_dir(path, is_own=is_own)
        return
    with pytest.raises(Closed) as error:
        RULES.check_work_dir(path, is_own=is_own)
    assert str(error.value).startswith(closed)


def test_what_a_site_makes_of_it() -> None:
    """Only what it allows, or nothing; what it opens for reading is for reading only, also within a directory."""
    with pytest.raises(Closed, match="this site does not mount the directory a job was submitted from"):
        replace(RULES, work_dir="none").check_work_dir("/data/x", is_own=True)
    with pytest.raises(Closed, match="this site allows paths below"):
        replace(RULES, work_dir="allowed").check_work_dir("/scratch/x", is_own=True)
    replace(RULES, work_dir="allowed").check_work_dir("/data/x", is_own=False)
    with pytest.raises(ReadOnly):
        RULES.check_work_dir("/data/ref/x", is_own=True)
    with pytest.raises(ReadOnly):
        replace(RULES, allow=("/scratch/x/ref:ro",)).check_work_dir("/scratch/x", is_own=True)
    with pytest.raises(Closed, match="this site does not mount home directories"):
        replace(RULES, allow=()).check_work_dir("/home/alice/x", is_own=True)


# -- on a file system -------------------------------------------------------------------------------------------


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory everybody may pass, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(prefix="pbsdock-unit.", dir="/srv"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def _make(path: Path, uid: int, gid: int, mode: int) -> Path:
    path.mkdir(parents=True)
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "mounted"),
    [
        (UID, 0, 0o700, True),
        (UID, 0, 0o500, False),
        (0, UID, 0o770, True),
        (0, UID + 1, 0o2775, True),
        (0, UID + 1, 0o2755, False),
        (0, UID + 2, 0o2777, False),
        (0, 0, 0o1777, False),
        (UID + 5, 0, 0o777, False),
    ],
)
def test_owner_and_group(top: Path, uid: int, gid: int, mode: int, mounted: bool) -> None:
    """That others may write to it makes it nobody's own."""
    path = _make(top / "x", uid, gid, mode)
    mount = Mount(source=str(path), target=str(path), read_only=False, origin="workdir", required=False)
    bound, skipped = mounts.resolve([mount], USER, PathRules())

    assert ([one.source for one in bound], bool(skipped)) == (([str(path)], False) if mounted else ([], True))


def test_names_of_a_directory(top: Path) -> None:
    """Every one that is gone through, the real one last; dots in links do not lead astray."""
    _make(top / "a/b/c", 0, 0, 0o755)
    (top / "rel").symlink_to("a")
    (top / "abs").symlink_to(top / "rel")
    (top / "a/b/odd").symlink_to("../../abs/b/../b")

    assert mounts.spellings(f"{top}/abs/b/c") == [f"{top}/{one}" for one in ("abs/b/c", "rel/b/c", "a/b/c")]
    assert mounts.spellings(f"{top}/abs/b/odd/c")[-1] == f"{top}/a/b/c"
    assert mounts.spellings(f"{top}/a/b/c") == [f"{top}/a/b/c"]
    (top / "round").symlink_to("round")
    with pytest.raises(OSError, match="Too many levels"):
        mounts.spellings(f"{top}/round/x")


def _linked(top: Path) -> tuple[Path, Path]:
    real = _make(top / "gpfs/dora", UID, UID, 0o700)
    (top / "home").symlink_to(real)
    return top / "home", real


def test_a_home_has_all_its_names(top: Path) -> None:
    """Unless another mount shows it there, or takes the place."""
    home, real = _linked(top)
    mount = Mount(source=str(home), target=str(home), read_only=False, origin="home", required=False)
    taken = Mount(source=str(real), target=str(real), read_only=True, origin="volume", required=True)
    rules = PathRules(home=str(home), allow=(str(home),))

    assert [one.target for one in mounts.resolve([mount], USER, rules)[0]] == [str(home), str(real)]
    both = mounts.resolve([mount, taken], USER, rules)[0]
    assert [(one.target, one.read_only) for one in both] == [(str(home), False), (str(real), True)]


def _record(top: Path, *bound: Bound, options: str = "", **changes: object) -> Record:
    plan: Plan = replace(_plan(f"{options} a"), uid=UID, gid=UID, groups=(UID + 1,), home=f"{top}/home")
    record = Record.new(job_id="7.vm", safe="7.vm", uid=UID, user="alice", node="n", boot_id="b")
    record.plan = plan
    record.facts = replace(record.facts, bound=bound, path_rules=PathRules(), **changes)  # type: ignore[arg-type]
    return record


def _start(record: Record, call: Call, *, is_running: bool = False) -> tuple[Call, list[Bound]]:
    return work_dir.at_start(record, call, WORDS, is_running=is_running)


def _call(cwd: Path | str, **environment: str) -> Call:
    return replace(CALL, cwd=str(cwd), environment=tuple(environment.items()))


def test_a_start_directory_that_is_there(top: Path) -> None:
    """Below a mount, or the root: nothing is to be done. In a home that is not mounted the job starts in the root."""
    home, real = _linked(top)
    (real / "run").mkdir()
    facts = real.stat()
    bound = Bound(source=str(real), target=str(real), read_only=False, device=facts.st_dev, inode=facts.st_ino)

    assert _start(_record(top, bound), _call(real / "run")) == (_call(real / "run"), [bound])
    assert _start(_record(top), _call("/"))[0].cwd == "/"
    assert _start(_record(top), _call(real))[0].cwd == "/"
    assert _start(_record(top), _call(home))[0].cwd == "/"
    assert _start(_record(top, options="--workdir /x"), _call("/nowhere"))[0].cwd == "/nowhere"


def test_a_start_directory_only_the_run_hook_knows(top: Path) -> None:
    """qsub -d: mounted by all its names, if it is the user's; not in a container that runs already."""
    _, real = _linked(top)
    own = _make(top / "own", UID, UID, 0o755)
    (top / "link").symlink_to(own)

    call, bound = _start(_record(top), _call(own, PBS_O_INITDIR=f"{top}/link"))
    assert call.cwd == str(own)
    assert [one.target for one in bound] == [f"{top}/link", str(own)]
    assert [one.target for one in _start(_record(top), _call(own, PBS_O_INITDIR=str(real)))[1]] == [str(own)]
    with pytest.raises(Refusal, match="the job's container was started without it"):
        _start(_record(top), _call(own), is_running=True)


@pytest.mark.parametrize("cwd", ["others", "none", "../x", "relative"])
def test_a_start_directory_that_is_not_there(top: Path, cwd: str) -> None:
    """The job is refused: it must not run in another place."""
    _make(top / "others", UID + 5, UID + 5, 0o777)
    path = cwd if cwd == "relative" else f"{top}/{cwd}"
    with pytest.raises(Refusal, match="which is not in the container: .*; nothing was started") as error:
        _start(_record(top), _call(path))
    assert error.value.code == "start-directory"


def test_a_start_directory_that_went(top: Path) -> None:
    """The engine would make it as root in the user's directory."""
    real = _make(top / "own", UID, UID, 0o755)
    facts = real.stat()
    bound = Bound(source=str(real), target=str(real), read_only=False, device=facts.st_dev, inode=facts.st_ino)
    with pytest.raises(Refusal, match="it does not exist there"):
        _start(_record(top, bound), _call(real / "gone"))


def test_what_is_said_of_the_directory_of_qsub() -> None:
    """One line where it is closed; where it is not on this node only if the script speaks of it."""
    plan = _plan("a")
    mount = Mount(source="/x", target="/x", read_only=False, origin="workdir", required=False)
    absent = f"/x cannot be mounted: No such file or directory {mounts.UNREADABLE}"

    def said(closed: str, reason: str, in_home: str, script: bytes | None) -> list[str]:
        lines: list[str] = []
        skipped = [(mount, reason)] if reason else []
        work_dir.tell(replace(plan, work_dir_closed=closed), skipped, in_home, script, WORDS, lines.append)
        return [line.partition(";")[0] for line in lines]

    assert said("", "", "", b"") == []
    assert said("C", "", "", None) == ["the directory of qsub is not in the container: C"]
    assert said("", "R", "", b"") == ["the directory of qsub is not in the container: R"]
    assert said("", "", "H", b"") == ["the directory of qsub is not in the container: H"]
    assert said("", absent, "", b"echo") == []
    assert said("", absent, "", b"cd $PBS_O_WORKDIR") == [f"the work directory is not in the container: {absent}"]


def test_nobody_has_these_ids() -> None:
    """Else the tests above would speak of somebody."""
    assert not [entry for entry in pwd.getpwall() if entry.pw_uid in (UID, UID + 5)]


def test_a_link_that_is_exchanged_meanwhile(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was opened and judged has no other name then, least of all what the link says now."""
    home, real = _linked(top)
    mount = Mount(source=str(home), target=str(home), read_only=False, origin="home", required=False)

    def gone(_path: str) -> list[str]:
        raise FileNotFoundError

    for names in (gone, lambda path: [path, f"{top}/elsewhere"]):
        monkeypatch.setattr(mounts, "spellings", names)
        bound, skipped = mounts.resolve([mount], USER, PathRules())
        assert ([(one.source, one.target) for one in bound], skipped) == ([(str(real), str(home))], [])


def test_links_that_nobody_can_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that changes while its sentence is made, or that root may not follow either, is the user's mistake."""

    def fails(path: str, *, strict: bool = False) -> str:
        raise OSError(22, "Invalid argument", path)

    monkeypatch.setattr(os.path, "realpath", fails)
    mount = Mount(source="/nowhere", target="/x", read_only=False, origin="volume", required=False)
    (_, reason), *_ = mounts.resolve([mount], USER, PathRules())[1]

    assert reason == f"/nowhere cannot be mounted: Invalid argument {mounts.UNREADABLE}"
