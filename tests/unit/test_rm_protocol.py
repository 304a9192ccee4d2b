"""What every resource manager owes the agent, asked of each implementation in turn.

A second one gets a site of its own here: a class with the methods of :class:`TorqueSite`, in :data:`SITES`.
"""

from __future__ import annotations

import inspect
import os
import pwd
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Protocol
from xml.sax.saxutils import escape

import pytest

from pbsdock.core.errors import BadValue
from pbsdock.directive.parse import parse_script
from pbsdock.directive.vocabulary import REFUSED, why_refused
from pbsdock.hook import client
from pbsdock.rm import base
from pbsdock.rm.base import Announced, Grant, Job, Live, ResourceManager
from pbsdock.rm.slurm import Slurm
from pbsdock.rm.slurm.control import Control
from pbsdock.rm.torque import Torque
from pbsdock.rm.torque.live import JobFiles

ME = pwd.getpwuid(os.getuid())
NODE, OTHER = "n1", "n2"
GIB = 1 << 30


class Site(Protocol):
    """A manager and the files of its own that tell it of jobs. Every job is of the user who runs the tests."""

    manager: ResourceManager
    job_id: str
    strange_ids: Sequence[str]  # none of its own
    impossible: Sequence[str]  # resources that cannot be understood
    script: Path  # of the job
    other_id: str  # another job's
    name: str  # of the job, as the hook is told it
    grant: Mapping[str, object]  # what the hook's job is granted
    statuses: Sequence[int]  # that a release hook can be told
    makes_files: bool  # whether the manager makes a node file and a directory for a job
    is_late: bool  # whether a job's shell may be there before the manager's word of it
    lost: str  # what is said where containers do not come into its accounting

    def hook(self, **changes: str) -> tuple[list[str], dict[str, str]]:
        """Arguments and environment of a prepare hook of a job with 2 slots here and 2 on another host, 4 GiB of
        memory, 8 with swap, an hour and a GPU on each host. *changes*: ``job_id``, ``user``, ``resources``."""

    def release(self, status: int) -> tuple[list[str], dict[str, str]]:
        """Arguments and environment of the same job's release hook."""

    def begin(self, job_id: str = "", resources: str = "") -> None:
        """Have the job alive here, granted the same."""

    def end(self) -> None:
        """Have it over."""

    def is_tool(self, program: str) -> bool:
        """Whether containers come into the manager's accounting by that."""

    def lose_tool(self) -> None:
        """Take it away."""

    def lose(self) -> None:
        """Make what the manager knows of live jobs unreadable."""

    def users_environment(self) -> dict[str, str]:
        """What the job's own processes have that names a node file and a directory the manager made."""


class TorqueSite:
    """pbs_mom's files."""

    def __init__(self, top: Path) -> None:
        self.priv = top / "mom_priv"
        (self.priv / "jobs").mkdir(parents=True)
        (top / "aux").mkdir()
        self.job_id, self.other_id, self.name = "7.vm", "8.vm", "x"
        self.statuses: Sequence[int] = (0, 1, 271, -2)
        self.makes_files = self.is_late = True
        self.lost = ": Torque counts no CPU time and memory of containers as the job's"
        self.grant: Mapping[str, object] = {
            "memory_bytes": 2 * GIB,
            "memory_swap_bytes": 4 * GIB,
            "cpus": 2,
            "slots_here": 2,
            "slots_total": 4,
            "gpus": 1,
            "hosts": (NODE, OTHER),
            "host_slots": (2, 2),
            "walltime_s": 3600,
        }
        self.strange_ids = ("", "x", "../7.vm", "7.vm/..", "7.*", "7.vm\n")
        self.impossible = ("mem=lots", "nodes=:ppn=1", "walltime=never")
        self.script = self.priv / "jobs/7.vm.SC"
        self.nodefile = top / "aux/7.vm"
        self.nodefile.write_text(f"{NODE}\n" * 2 + f"{OTHER}\n" * 2)
        self.tmpdir = top / "7.vm"
        self.tmpdir.mkdir()
        self.tool = top / "pbs_track"
        self.tool.write_text("#!/bin/sh\n")
        self.tool.chmod(0o755)
        files = JobFiles(self.priv / "jobs", owner=os.getuid())
        self.manager: ResourceManager = Torque(self.priv, NODE, client_dir=str(top), files=files)
        self.resources = "nodes=2:ppn=2:gpus=1,mem=4gb,vmem=8gb,walltime=01:00:00"

    def hook(self, **changes: str) -> tuple[list[str], dict[str, str]]:
        self.script.write_text("#!/bin/sh\ntrue\n")
        argv = [
            changes.get("job_id", self.job_id),
            changes.get("user", ME.pw_name),
            "g",
            "x",
            changes.get("resources", self.resources),
            "batch",
            "",
            str(self.script),
        ]
        return argv, {"PBS_NODEFILE": str(self.nodefile), "PBS_O_WORKDIR": "/home/run", "TMPDIR": str(self.tmpdir)}

    def release(self, status: int) -> tuple[list[str], dict[str, str]]:
        argv = [self.job_id, ME.pw_name, "g", "x", "0", "", "", "batch", "", str(status), str(self.script)]
        return argv, {}

    def begin(self, job_id: str = "", resources: str = "") -> None:
        items = (item.partition("=") for item in (resources or self.resources).split(","))
        listed = "".join(f"<{key}>{escape(value)}</{key}>" for key, _, value in items)
        hosts = "+".join(f"{host}/{slot}" for host in (NODE, OTHER) for slot in (0, 1))
        name = job_id or self.job_id
        (self.priv / "jobs" / f"{name}.JB").write_text(
            f"<job><jobid>{name}</jobid><attributes><euser>{ME.pw_name}</euser>"
            f"<execution_uid>{ME.pw_uid}</execution_uid><exec_host>{hosts}</exec_host><queue>batch</queue>"
            f"<Job_Name>x</Job_Name><Resource_List>{listed}</Resource_List>"
            "<Variable_List>PBS_O_WORKDIR=/home/run,A=b</Variable_List></attributes></job>"
        )

    def end(self) -> None:
        (self.priv / "jobs/7.vm.JB").unlink()

    def is_tool(self, program: str) -> bool:
        return os.access(program, os.X_OK)

    def lose_tool(self) -> None:
        self.tool.unlink()

    def lose(self) -> None:
        (self.priv / "jobs").rename(self.priv / "hidden")

    def users_environment(self) -> dict[str, str]:
        return {"PBS_NODEFILE": str(self.nodefile), "TMPDIR": str(self.tmpdir)}


class SlurmSite:
    """What a Prolog has written, slurmd's spool directory, cgroups of version 1 that are files of a directory, and a
    squeue that is no more than a shell script: a controller is asked in tests/engine/test_slurm_jobs.py."""

    def __init__(self, top: Path) -> None:
        self.spool, self.told, self.sysfs = top / "spool", top / "told", top / "cgroup"
        for path in (self.spool, self.told, *(self.sysfs / name for name in ("freezer", "memory", "cpuset"))):
            path.mkdir(parents=True)
        self.job_id, self.other_id, self.name = "7", "8", ""
        self.strange_ids = ("", "x", "../7", "7/..", "7.*", "7\n", "07", "7_1", "7_[1-3]", "7+1", "99999999999")
        self.impossible = ("cpus=lots", "nodes=n[1", "gpus=0;1")
        self.statuses: Sequence[int] = (0, 1, 255, 137)
        self.makes_files = self.is_late = False
        self.lost = "has no controller of processes (pids)"
        self.grant: Mapping[str, object] = {
            "memory_bytes": 2 * GIB,
            "cpus": 2,
            "slots_here": 2,
            "slots_total": 4,
            "gpus": 1,
            "gpu_ids": ("3",),
            "walltime_s": 3600,
        }
        self.script = self.spool / "job00007/slurm_script"
        self.tools = top / "bin"
        self.tools.mkdir()
        control = Control(top / "slurm.conf", path=f"{self.tools}:/usr/bin:/bin")
        self.manager: ResourceManager = Slurm(
            self.spool, self.told, top / "slurm.conf", sysfs=self.sysfs, owner=os.getuid(), control=control
        )
        self.resources = "cpus=2(x2),nodes=n[1-2],gpus=3"

    def _tell(self, job_id: str, resources: str | None, user: str = ME.pw_name) -> None:
        asked = self.resources if resources is None else resources
        granted = {"cpus": "1", "nodes": NODE, "gpus": ""}
        granted.update(item.split("=", 1) for item in re.split(r",(?=[a-z]+=)", asked) if item)
        lines = {"uid": str(ME.pw_uid), "user": user, "partition": "batch", "node": NODE, **granted}
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        (self.told / job_id).write_text(f"{text}restarts=0\nwork_dir=/home/run\n")
        squeue = self.tools / "squeue"
        squeue.write_text(f"#!/bin/sh\necho '{job_id} {'1:00:00' if asked else 'UNLIMITED'}'\n")
        squeue.chmod(0o755)
        memory = self.sysfs / f"memory/slurm_{NODE}/uid_{ME.pw_uid}/job_{job_id}"
        memory.mkdir(parents=True, exist_ok=True)
        (memory / "memory.limit_in_bytes").write_text(f"{2 * GIB if asked else 9223372036854771712}\n")

    def hook(self, **changes: str) -> tuple[list[str], dict[str, str]]:
        job_id = changes.get("job_id", self.job_id)
        self.script.parent.mkdir(exist_ok=True)
        self.script.write_text("#!/bin/sh\ntrue\n")
        if job_id == self.job_id:
            self._tell(job_id, changes.get("resources"), changes.get("user", ME.pw_name))
        return [job_id], {}

    def release(self, status: int) -> tuple[list[str], dict[str, str]]:
        return [self.job_id, f"0:{status - 128}" if status == 137 else f"{status}:0"], {}

    def _cgroup(self, job_id: str) -> Path:
        return self.sysfs / f"freezer/slurm_{NODE}/uid_{ME.pw_uid}/job_{job_id}"

    def begin(self, job_id: str = "", resources: str | None = None) -> None:
        self._tell(job_id or self.job_id, resources)
        self._cgroup(job_id or self.job_id).mkdir(parents=True)

    def end(self) -> None:
        self._cgroup(self.job_id).rmdir()

    def is_tool(self, program: str) -> bool:
        return program == "cgroup.procs"

    def lose_tool(self) -> None:
        (self.sysfs / "cgroup.controllers").write_text("memory\n")

    def lose(self) -> None:
        self.spool.rename(self.spool.with_name("hidden"))

    def users_environment(self) -> dict[str, str]:
        return {}


SITES: dict[str, Callable[[Path], Site]] = {"torque": TorqueSite, "slurm": SlurmSite}


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """One implementation, whose waiting takes no time."""
    clock = iter(range(0, 10**9))
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    made: Site = SITES[request.param](tmp_path)
    return made


def _granted(grant: Grant) -> dict[str, object]:
    return {field.name: getattr(grant, field.name) for field in fields(grant)}


# -- a job that is prepared -------------------------------------------------------------------------------------------


def test_a_hooks_job(site: Site) -> None:
    """Who, what and where: from the hook, the passwd database and the manager's files."""
    announced: Announced = site.manager.announced(*site.hook())
    job = announced.job()

    assert (announced.id, announced.user, announced.script_path) == (site.job_id, ME.pw_name, str(site.script))
    assert announced.wrong == ""
    assert (job.id, job.safe, job.job_file) == (site.job_id, announced.safe, announced.job_file)
    assert (job.user, job.uid, job.gid, job.home) == (ME.pw_name, ME.pw_uid, ME.pw_gid, ME.pw_dir)
    assert ME.pw_gid not in job.groups
    assert (job.name, job.queue, job.work_dir, job.interactive) == (site.name, "batch", "/home/run", False)
    assert (job.nodefile is not None, job.tmpdir is not None) == (site.makes_files, site.makes_files)
    assert job.words is site.manager.words


def test_a_hooks_grant_is_this_nodes(site: Site) -> None:
    """Half of a job that has half of its slots here; an hour is an hour everywhere."""
    grant = site.manager.announced(*site.hook()).job().grant

    granted = _granted(grant)
    assert {name: granted[name] for name in site.grant} == site.grant
    assert len(grant.gpu_ids) in (0, grant.gpus)
    assert grant.memory_from
    assert grant.memory_text


def test_nothing_asked_for_is_nothing_granted(site: Site) -> None:
    """None, which is not zero."""
    grant = site.manager.announced(*site.hook(resources="")).job().grant

    assert (grant.memory_bytes, grant.memory_swap_bytes, grant.walltime_s, grant.gpus) == (None, None, None, 0)
    assert grant.cpus >= 1


def test_without_its_script_a_job_is_interactive(site: Site) -> None:
    """Nothing else tells it in the hook."""
    argv, env = site.hook()
    site.script.unlink()
    assert site.manager.announced(argv, env).job().interactive


def test_an_unknown_user_is_announced_and_is_no_job(site: Site) -> None:
    """Told by name first: a refusal for it must be recorded all the same."""
    announced = site.manager.announced(*site.hook(user="nobody-knows-me"))
    assert (announced.user, announced.id) == ("nobody-knows-me", site.job_id)
    assert announced.job_file
    with pytest.raises(KeyError):
        announced.job()


def test_resources_that_make_no_sense_are_told(site: Site) -> None:
    """The job is there, with nothing granted, and what is wrong is a sentence."""
    for text in site.impossible:
        announced = site.manager.announced(*site.hook(resources=text))
        assert announced.wrong
        assert announced.job().grant.memory_bytes is None


def test_ids_are_checked(site: Site) -> None:
    """No path and no pattern is ever an id; every one that is has a name for files."""
    assert site.manager.job_id(site.job_id) == site.job_id
    safe = site.manager.announced(*site.hook()).safe
    assert "/" not in safe
    assert len(safe.encode()) <= 100
    for text in site.strange_ids:
        with pytest.raises(BadValue):
            site.manager.job_id(text)
        with pytest.raises(BadValue):
            site.manager.announced(*site.hook(job_id=text))
        with pytest.raises(BadValue):
            site.manager.find(text)


def test_a_call_that_makes_no_sense(site: Site) -> None:
    """It names no job, and asking it what it names hurts nobody."""
    with pytest.raises(BadValue):
        site.manager.announced([], {})
    with pytest.raises(BadValue):
        site.manager.ended([], {})
    assert (site.manager.named([], {}), site.manager.script_named([], {})) == ("", "")
    assert site.manager.named(*site.hook()) == site.job_id
    assert site.manager.script_named(*site.hook()) == str(site.script)


def test_the_end_of_a_job(site: Site) -> None:
    """Its id and how it ended."""
    for status in site.statuses:
        ended = site.manager.ended(*site.release(status))
        assert (ended.id, ended.exit_status) == (site.job_id, status)


def test_the_end_of_a_job_without_a_status(site: Site) -> None:
    """Whatever else is missing: a job has to be released."""
    argv, env = site.release(0)
    ended = site.manager.ended(argv[:1], env)
    assert (ended.id, ended.exit_status in (None, 0)) == (site.job_id, True)


# -- a job that is alive ----------------------------------------------------------------------------------------------


def test_live_jobs_by_their_files(site: Site) -> None:
    """The name a job is announced with is the name it is alive by, from its beginning to its end."""
    job = site.manager.announced(*site.hook()).job()
    assert (site.manager.live(), site.manager.is_live(site.job_id)) == (frozenset(), False)
    site.begin()
    assert (site.manager.live(), site.manager.is_live(site.job_id)) == ({job.job_file}, True)
    site.end()
    assert (site.manager.live(), site.manager.is_live(site.job_id)) == (frozenset(), False)


def test_what_cannot_be_read_is_not_empty(site: Site) -> None:
    """Else every job would look dead."""
    site.lose()
    with pytest.raises(OSError, match="No such file"):
        site.manager.live()
    with pytest.raises(OSError, match="No such file"):
        site.manager.is_live(site.job_id)


def test_a_live_job_is_found(site: Site) -> None:
    """The same job as the hook was called for, from what the manager itself has written of it."""
    announced = site.manager.announced(*site.hook()).job()
    site.begin()
    live: Live | None = site.manager.find(site.job_id)
    assert live is not None
    job = live.job(site.users_environment())

    assert (live.id, live.uid, live.wrong) == (site.job_id, ME.pw_uid, "")
    assert (job.id, job.safe, job.job_file, job.uid) == (announced.id, announced.safe, announced.job_file, ME.pw_uid)
    assert (job.script_path, job.interactive, job.work_dir) == (str(site.script), True, "/home/run")
    assert (job.nodefile, job.tmpdir) == (announced.nodefile, announced.tmpdir)
    assert _granted(job.grant) == _granted(announced.grant)


@pytest.mark.parametrize("value", ["/etc/passwd", "/", "", "relative", "/tmp/7.vm/../.."])
def test_a_users_word_is_not_believed(site: Site, value: str) -> None:
    """A path that is not the manager's own work for this job is none."""
    site.begin()
    live = site.manager.find(site.job_id)
    assert live is not None
    job = live.job(dict.fromkeys(site.users_environment(), value))
    assert (job.nodefile, job.tmpdir) == (None, None)


def test_a_link_in_the_managers_place_is_not_followed(site: Site) -> None:
    """Whoever may exchange what the manager has made must not choose what is mounted."""
    site.begin()
    live = site.manager.find(site.job_id)
    assert live is not None
    env = site.users_environment()
    for path in map(Path, env.values()):
        path.rename(f"{path}.moved")
        path.symlink_to(f"{path}.moved")
    job = live.job(env)
    assert (job.nodefile, job.tmpdir) == (None, None)


def test_a_job_that_is_not_alive(site: Site) -> None:
    """None after a while; another's file is not taken for it."""
    site.begin(site.other_id)
    assert site.manager.find(site.job_id) is None


def test_a_job_whose_file_comes_late(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell may be faster than the manager's word of it."""
    if not site.is_late:
        pytest.skip("its Prolog is over before any shell of the job's is there")
    monkeypatch.setattr("time.sleep", lambda _: site.begin())
    assert site.manager.find(site.job_id) is not None


def test_a_live_job_with_resources_that_make_no_sense(site: Site) -> None:
    """Told as the hook would be told it."""
    site.begin(resources=site.impossible[0])
    live = site.manager.find(site.job_id)
    assert live is not None
    assert live.wrong == site.manager.announced(*site.hook(resources=site.impossible[0])).wrong


# -- the shell, accounting, words -------------------------------------------------------------------------------------


def test_a_shell_that_is_not_the_login_shell_was_chosen(site: Site) -> None:
    """And a command line of several words is no shell of the manager's choice."""
    for argv in (("/no/shell",), (ME.pw_shell, "-c", "true")):
        assert site.manager.shell_chosen(ME.pw_uid, argv, "none")
    assert not site.manager.chooses_shell(b"#!/bin/sh\necho -S\n")


def test_adoption_says_what_it_did(site: Site) -> None:
    """Fields for the hook's answer, none of which is one of the answer's own."""
    adoption = site.manager.adopt(os.getpid(), os.getppid())
    assert adoption.skipped == ""
    assert not {"pid", "task", "fds", "sentence", "code"} & set(adoption.told)
    assert all(isinstance(value, str) for value in adoption.told.values())


def test_adoption_that_is_possible_or_not(site: Site) -> None:
    """By what, or what is lost."""
    program, lost = site.manager.adopts()
    assert (site.is_tool(program), lost) == (True, "")
    site.lose_tool()
    program, lost = site.manager.adopts()
    assert (program, site.lost in lost) == ("", True)


def test_words_are_all_there(site: Site) -> None:
    """Each is something, and the directive's refusals are filled in with them."""
    words = site.manager.words
    assert [field.name for field in fields(words) if not getattr(words, field.name)] == []
    assert [
        option for option in REFUSED if "{" in why_refused(option, words) or "}" in why_refused(option, words)
    ] == []
    assert set(words.path_variables) < set(words.variables)


def test_a_directives_variables_are_the_managers(site: Site) -> None:
    """What the words name expands; what a site without this manager calls it does not."""
    words = site.manager.words
    for name in words.variables:
        directive = parse_script(f"#DOCKER -e A=${name} busybox\n".encode(), words)
        assert directive is not None
    for name in words.path_variables:
        directive = parse_script(f"#DOCKER -w ${name}/x busybox\n".encode(), words)
        assert directive is not None


def test_its_own_directories_are_closed(site: Site) -> None:
    """Absolute, and at least one of them sealed."""
    closed = site.manager.closed
    assert closed.sealed
    assert all(Path(path).is_absolute() for path in (*closed.sealed, *closed.guarded))


# -- the seam itself --------------------------------------------------------------------------------------------------


def _members(kind: type) -> Mapping[str, object]:
    return {
        name: member for name, member in vars(kind).items() if not name.startswith("_") and inspect.isfunction(member)
    }


@pytest.mark.parametrize("kind", [Torque, Slurm])
def test_an_implementation_has_every_method(kind: type) -> None:
    """None is inherited from the Protocol, whose methods do nothing."""
    missing = [name for name in _members(ResourceManager) if name not in vars(kind)]
    assert missing == []


@pytest.mark.parametrize("kind", [base.Grant, base.Words, base.Job, base.Ended, base.Adoption])
def test_what_crosses_the_seam_is_frozen_and_plain(kind: type) -> None:
    """Nothing of a scheduler's own types is in it."""
    allowed = {"str", "int", "bool", "tuple", "Mapping", "Grant", "Words", "None", "NoneType"}
    used = {
        each.__name__
        for hint in typing.get_type_hints(kind).values()
        for each in (hint, typing.get_origin(hint), *typing.get_args(hint))
        if isinstance(each, type)
    }
    assert used - {"UnionType"} <= allowed
    made = object.__new__(kind)
    with pytest.raises(FrozenInstanceError):
        setattr(made, fields(kind)[0].name, None)


def test_policy_reads_no_more_of_a_scheduler_than_the_job() -> None:
    """The grant is one of a job's facts; a list of resources is none."""
    assert "resources" not in {field.name for field in fields(Job)}


def test_torques_hook_passes_on_what_its_manager_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hooks may import nothing of the manager: the two lists are held together here."""
    read: set[str] = set()

    class Environment(dict[str, str]):
        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
            read.add(key)
            return super().get(key, default)  # type: ignore[arg-type]

    argv, env = TorqueSite(tmp_path).hook()
    Torque(tmp_path / "mom_priv", NODE).announced(argv, Environment(env)).job()
    assert read
    assert read <= set(client._HOOK_ENV)
