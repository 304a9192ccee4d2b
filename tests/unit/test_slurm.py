"""Slurm's formats, its cgroups, slurm.conf, and the line in front of a batch script."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pbsdock.admin.setup import slurm_config
from pbsdock.admin.setup.errors import SetupError
from pbsdock.admin.setup.places import Places
from pbsdock.core.errors import BadValue, NodeFault, Refusal
from pbsdock.hook import slurm_script
from pbsdock.rm.slurm import Slurm, cgroup, prolog_file
from pbsdock.rm.slurm.cgroup import Step
from pbsdock.rm.slurm.ids import parse_job_id
from pbsdock.rm.slurm.values import counts_of, gpu_ids_of, hosts_of, seconds_of


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("vm", ("vm",)),
        ("n[1-3]", ("n1", "n2", "n3")),
        ("n[08-10],login", ("n08", "n09", "n10", "login")),
        ("r[1-2]n[5,7]", ("r1n5", "r1n7", "r2n5", "r2n7")),
        ("", ()),
    ],
)
def test_hosts(text: str, hosts: tuple[str, ...]) -> None:
    """As Slurm writes them, in its order."""
    assert hosts_of(text) == hosts


@pytest.mark.parametrize("text", ["n[1", "n[a-b]", "n[1-99999999]", "n[]", "n[1-2-3]"])
def test_hosts_that_are_none(text: str) -> None:
    """A sentence, and no list as long as somebody likes."""
    with pytest.raises(BadValue):
        hosts_of(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5:00", 300),
        ("1:00:00", 3600),
        ("2-00:00:00", 172800),
        ("1-12", 129600),
        ("90", 5400),
        ("UNLIMITED", None),
        ("NOT_SET", None),
    ],
)
def test_time_limits(text: str, seconds: int | None) -> None:
    """Of squeue."""
    assert seconds_of(text) == seconds


def test_counts_and_gpus() -> None:
    """By node, and by number."""
    assert counts_of("2(x3),1") == (2, 2, 2, 1)
    assert gpu_ids_of("0,2-3") == ("0", "2", "3")
    assert (counts_of(""), gpu_ids_of("")) == ((), ())
    for wrong in ("x", "1(x", "2(x99999999)"):
        with pytest.raises(BadValue):
            counts_of(wrong)


def test_ids() -> None:
    """A step is its job's; an element of an array is told how to find its own number."""
    assert (parse_job_id("12"), parse_job_id("12.batch"), parse_job_id("12.0")) == ("12", "12", "12")
    for text in ("12_3", "12_[1-4%2]", "12+1"):
        with pytest.raises(BadValue, match="SLURM_JOB_ID in the job"):
            parse_job_id(text)


def test_what_a_prolog_has_written() -> None:
    """The work directory is the user's, and comes last: whatever it holds, it is nothing else."""
    data = b"uid=5\nuser=u\npartition=p\nnode=n\nnodes=n\ncpus=1\ngpus=\nrestarts=2\nwork_dir=/a\nuid=0\npartition=x\n"
    told = prolog_file.parse("7", data)
    assert (told.uid, told.user, told.partition, told.restarts) == (5, "u", "p", 2)
    assert told.work_dir == "/a\nuid=0\npartition=x"


@pytest.mark.parametrize("data", [b"", b"uid=x\nuser=u\n", b"uid=5\n", b"uid=5\nuser=a/b\n", b"nonsense\n"])
def test_what_no_prolog_has_written(data: bytes) -> None:
    """A half-written file is none."""
    with pytest.raises(BadValue):
        prolog_file.parse("7", data)


def test_a_file_that_is_not_roots_is_none(tmp_path: Path) -> None:
    """Nor a link."""
    (tmp_path / "7").write_text("uid=5\nuser=u\n")
    assert prolog_file.read(tmp_path, "8", owner=os.getuid()) is None
    with pytest.raises(BadValue):
        prolog_file.read(tmp_path, "7", owner=os.getuid() + 1)
    (tmp_path / "9").symlink_to(tmp_path / "7")
    with pytest.raises(OSError, match="symbolic"):
        prolog_file.read(tmp_path, "9", owner=os.getuid())


V2 = "system.slice/vm_slurmstepd.scope"
V2_SPECIAL = "system.slice/slurmstepd.scope/job_7/step_0/user/task_special"


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("/slurm/uid_5/job_7/step_batch/task_0", Step(5, "7", "slurm/uid_5/job_7/step_batch/task_0")),
        ("/slurm_vm/uid_5/job_7/step_batch", Step(5, "7", "slurm_vm/uid_5/job_7/step_batch")),
        ("/slurm_vm/uid_5/job_7/step_0/task_1/own/deep", Step(5, "7", "slurm_vm/uid_5/job_7/step_0/task_1")),
        ("/slurm_vm/uid_5/job_7/step_batch/own", Step(5, "7", "slurm_vm/uid_5/job_7/step_batch")),
        ("/", None),
        ("/docker/slurm/uid_5/job_7/step_batch", None),
        ("/slurm_vm/uid_5/job_7", None),
        (f"/{V2}/job_7/step_batch/user/task_0", Step(None, "7", f"{V2}/job_7/step_batch/user/task_0")),
        (f"/{V2}/job_7/step_3/user/task_1/own", Step(None, "7", f"{V2}/job_7/step_3/user/task_1")),
        ("/system.slice/slurmstepd.scope/job_7/step_0/user/task_special", Step(None, "7", V2_SPECIAL)),
        (f"/{V2}/job_7/step_batch/slurm", None),
        (f"/{V2}/system", None),
        (f"/user.slice/{V2}/job_7/step_batch/user/task_0", None),
        ("/system.slice/no_slurmstepd.scope.d/job_7/step_batch/user/task_0", None),
    ],
)
def test_where_a_process_is(path: str, step: Step | None) -> None:
    """What a user has made below their own step is not taken."""
    assert cgroup.step_of(path) == step


def _sysfs(top: Path, *controllers: str) -> Path:
    for controller in controllers:
        (top / controller / "slurm/uid_5/job_7/step_batch/task_0").mkdir(parents=True)
    return top


def test_a_container_goes_where_its_run_hook_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every hierarchy of Slurm's, but devices and pids."""
    sysfs = _sysfs(tmp_path, "freezer", "memory", "cpu,cpuacct", "devices")
    step = "/slurm/uid_5/job_7/step_batch"
    hook = {"freezer": step, "memory": f"{step}/task_0", "cpu,cpuacct": f"{step}/task_0", "devices": step, "pids": "/"}
    monkeypatch.setattr(cgroup, "paths_of", lambda pid: hook)
    assert cgroup.take_in(42, 1, "7", 5, sysfs) == "slurm/uid_5/job_7/step_batch/task_0"
    assert (sysfs / f"freezer{step}/cgroup.procs").read_text() == "42\n"
    assert (sysfs / f"cpu,cpuacct{step}/task_0/cgroup.procs").read_text() == "42\n"
    assert not (sysfs / f"devices{step}/cgroup.procs").exists()


@pytest.mark.parametrize("gone", [{}, {"freezer": "/"}, None], ids=["in no step", "escaped", "over"])
def test_a_step_that_ends_meanwhile(
    gone: dict[str, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is started that slurmstepd may have missed when it killed the step; nor is that a fault of the node's."""
    step = {"freezer": "/slurm/uid_5/job_7/step_batch"}
    answers = iter([step, gone, step])

    def paths_of(pid: int) -> dict[str, str]:
        if (answer := next(answers)) is None:
            raise FileNotFoundError(pid)
        return answer

    monkeypatch.setattr(cgroup, "paths_of", paths_of)
    with pytest.raises(Refusal, match="the step of job 7 that asked for a start is over"):
        cgroup.take_in(42, 1, "7", 5, _sysfs(tmp_path, "freezer"))
    monkeypatch.setattr(cgroup, "paths_of", lambda pid: step)
    with pytest.raises(Refusal, match="the step of job 7 that asked for a start is over"):
        cgroup.take_in(42, 1, "7", 5, tmp_path / "removed")


def test_what_slurm_leaves_of_a_job(tmp_path: Path) -> None:
    """Its empty cgroups go, those of others stay, and so does what somebody is in."""
    _sysfs(tmp_path, "freezer", "memory")
    other = tmp_path / "memory/slurm/uid_5/job_77"
    other.mkdir()
    cgroup.clear("7", tmp_path)
    assert not list(tmp_path.glob("*/slurm/uid_5/job_7"))
    assert other.exists()
    (tmp_path / "freezer/slurm/uid_5/job_77/step_0/cgroup.procs").mkdir(parents=True)
    (
        tmp_path / "freezer/slurm/uid_5/job_77/step_0/cgroup.procs/1"
    ).touch()  # in cgroupfs rmdir(2) fails where processes are
    cgroup.clear("77", tmp_path)
    assert (tmp_path / "freezer/slurm/uid_5/job_77/step_0").exists()


@pytest.mark.parametrize(("job", "uid", "kind"), [("8", 5, Refusal), ("7", 6, Refusal)])
def test_a_hook_of_another_job(
    job: str, uid: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says which it is in."""
    monkeypatch.setattr(cgroup, "paths_of", lambda pid: {"freezer": "/slurm/uid_5/job_7/step_batch"})
    with pytest.raises(kind):
        cgroup.take_in(42, 1, job, uid, _sysfs(tmp_path, "freezer"))
    monkeypatch.setattr(cgroup, "paths_of", lambda pid: {"freezer": "/", "memory": "/"})
    with pytest.raises(NodeFault, match="ProctrackType=proctrack/cgroup"):
        cgroup.take_in(42, 1, "7", 5, tmp_path)


def _unified(top: Path) -> Path:
    """A fake tree of version 2 with a job of Slurm's, and a slice with a container's scope."""
    task = f"{V2}/job_7/step_batch/user/task_0"
    (top / task).mkdir(parents=True)
    (top / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    for place in (V2, f"{V2}/job_7", f"{V2}/job_7/step_batch", f"{V2}/job_7/step_batch/user"):
        (top / place / "cgroup.subtree_control").write_text("cpuset cpu memory\n")
    (top / task / "pids.max").write_text("max\n")
    (top / f"{V2}/job_7/memory.max").write_text(f"{64 << 20}\n")
    (top / f"{V2}/job_7/cpuset.cpus").write_text("0-1\n")
    (top / "job.slice/docker-1.scope").mkdir(parents=True)
    (top / "job.slice/pids.max").write_text("99\n")
    (top / "job.slice/docker-1.scope/pids.max").write_text("2363\n")
    return top


def test_whose_a_job_is_on_this_node_fake_tree(tmp_path: Path) -> None:
    """Another cluster of the host has jobs of the same numbers, and of other users."""
    for place in (
        "slurm_other/uid_1002/job_7",
        "slurm_other/uid_1002/job_8",
        "slurm_n1/uid_1001/job_7",
        "slurm/uid_5/job_9",
    ):
        (tmp_path / "freezer" / place).mkdir(parents=True)
    owners = [cgroup.owner_of(job, ["n2", "n1"], tmp_path) for job in ("7", "8", "9")]

    assert owners == [1001, None, 5]


def _in_v2(hook: str) -> Callable[[int], dict[str, str]]:
    """What the kernel says of run hook 1, and of container 42, which is where it was moved to once it is asked again."""
    asked = [f"/{V2}/job_7/step_batch/user/task_0", "/job.slice/docker-1.scope"]
    return lambda pid: {"": hook} if pid == 1 else {"": asked.pop()}


def test_what_a_job_has_on_version_2_fake_tree(tmp_path: Path) -> None:
    """Its limits, and that it is there; whose it is, is not told."""
    sysfs = _unified(tmp_path)
    assert cgroup.jobs(sysfs) == {"7"}
    assert cgroup.memory_of("7", "vm", sysfs) == 64 << 20
    assert cgroup.cpus_of("7", "vm", sysfs) == "0-1"
    assert cgroup.owner_of("7", ["vm"], sysfs) is None
    (sysfs / f"{V2}/job_7/memory.max").write_text("max\n")
    assert cgroup.memory_of("7", "vm", sysfs) is None
    assert cgroup.memory_of("8", "vm", sysfs) is None


def test_a_container_goes_where_its_run_hook_is_on_version_2_fake_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the lowest limit of processes that it leaves behind; one that is there already stays."""
    sysfs, task = _unified(tmp_path), f"{V2}/job_7/step_batch/user/task_0"
    monkeypatch.setattr(cgroup, "paths_of", _in_v2(f"/{task}"))
    assert cgroup.take_in(42, 1, "7", 5, sysfs) == task
    assert (sysfs / task / "cgroup.procs").read_text() == "42\n"
    assert (sysfs / task / "pids.max").read_text() == "99"
    assert (sysfs / V2 / "cgroup.subtree_control").read_text() == "+pids"
    assert (sysfs / f"{V2}/job_7/step_batch/user/cgroup.subtree_control").read_text() == "+pids"
    assert not (sysfs / "system.slice/cgroup.subtree_control").exists()

    (sysfs / task / "pids.max").write_text("50\n")
    monkeypatch.setattr(cgroup, "paths_of", _in_v2(f"/{task}"))
    cgroup.take_in(42, 1, "7", 5, sysfs)
    assert (sysfs / task / "pids.max").read_text() == "50\n"


def test_who_is_in_no_task_on_version_2_fake_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job's process, one of slurmd's, one of nobody's; and a container that did not get there."""
    sysfs, task = _unified(tmp_path), f"{V2}/job_7/step_batch/user/task_0"
    monkeypatch.setattr(cgroup, "paths_of", _in_v2(f"/{V2}/job_8/step_batch/user/task_0"))
    with pytest.raises(Refusal, match="is not in that job"):
        cgroup.take_in(42, 1, "7", 5, sysfs)
    for path in (f"/{V2}/job_7/step_batch/slurm", "/"):
        monkeypatch.setattr(cgroup, "paths_of", _in_v2(path))
        with pytest.raises(NodeFault, match="ProctrackType=proctrack/cgroup"):
            cgroup.take_in(42, 1, "7", 5, sysfs)
    monkeypatch.setattr(cgroup, "paths_of", lambda pid: {"": f"/{task}" if pid == 1 else "/job.slice/docker-1.scope"})
    with pytest.raises(NodeFault, match="not where it was moved to"):
        cgroup.take_in(42, 1, "7", 5, sysfs)


def test_no_controller_of_processes_fake_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container is not started without its limit of processes."""
    sysfs, task = _unified(tmp_path), f"{V2}/job_7/step_batch/user/task_0"
    (sysfs / task / "pids.max").unlink()
    monkeypatch.setattr(cgroup, "paths_of", _in_v2(f"/{task}"))
    with pytest.raises(NodeFault, match=r"pids\.max"):
        cgroup.take_in(42, 1, "7", 5, sysfs)
    assert not (sysfs / task / "cgroup.procs").exists()


def test_the_line_in_front_of_a_script(tmp_path: Path) -> None:
    """Put there once, taken away again, and never seen by the directive's reader."""
    script = tmp_path / "slurm_script"
    text = b"#!/bin/sh\n#DOCKER x\n\0\xff binary\n"
    script.write_bytes(text)
    for _twice in (1, 2):
        assert slurm_script.main(["/opt/pbsdock/hooks/slurm/run", str(script)]) == 0
    assert script.read_bytes() == b"#!/opt/pbsdock/hooks/slurm/run\n" + text
    manager = Slurm(tmp_path, tmp_path, tmp_path / "slurm.conf")
    assert manager.submitted(script.read_bytes()) == text
    slurm_script.restore(str(script))
    slurm_script.restore(str(script))
    assert script.read_bytes() == manager.submitted(text) == text


def _places(top: Path) -> Places:
    return Places(mom_priv=top / "spool", prefix=top / "opt", root=top, slurm_conf=top / "slurm.conf")


WELL = "ProctrackType=proctrack/cgroup\nTaskPlugin=task/affinity,task/cgroup\nJobAcctGatherType=jobacct_gather/cgroup\n"


def test_the_block_comes_and_goes(tmp_path: Path) -> None:
    """The file is afterwards as it was, and its mode too."""
    places = _places(tmp_path)
    conf = tmp_path / "slurm.conf"
    conf.write_text(f"{WELL}NodeName=n1")
    conf.chmod(0o640)
    assert len(list(slurm_config.wrong(conf.read_text(), places))) == 5
    for _twice in (1, 2):
        slurm_config.write(conf, slurm_config.lines(places))
    text = conf.read_text()
    assert list(slurm_config.wrong(text, places)) == []
    assert text.count("Prolog=") == 2
    assert conf.stat().st_mode & 0o777 == 0o640
    assert slurm_config.mentions(text)
    assert slurm_config.take_out(conf)
    assert conf.read_text() == f"{WELL}NodeName=n1\n"
    assert not slurm_config.take_out(conf)


def test_what_the_site_has_set_stays(tmp_path: Path) -> None:
    """Another hook in the place of ours is refused with what to do; other values are theirs."""
    places = _places(tmp_path)
    with pytest.raises(SetupError, match="has another Prolog .*call .*/hooks/slurm/prolog from it"):
        slurm_config.check("prolog = /usr/local/prolog # ours\n", places)
    text = slurm_config.joined("HealthCheckInterval=600\n", slurm_config.lines(places))
    assert text.count("HealthCheckInterval") == 1
    slurm_config.check(text, places)


@pytest.mark.parametrize(
    ("line", "lost"),
    [
        ("ProctrackType=proctrack/linuxproc", "would not end a job's container"),
        ("TaskPlugin=task/none", "would not be held to the job's memory"),
        ("JobAcctGatherType=jobacct_gather/linux", "would not count what"),
        ("PrologFlags=NoHold", "without Alloc"),
    ],
)
def test_what_does_not_fit(line: str, lost: str, tmp_path: Path) -> None:
    """Each with what is lost by it."""
    text = f"{WELL}{line}\n"
    assert any(lost in sentence for sentence in slurm_config.unfit(text, tmp_path / "slurm.conf"))


def test_the_spool_directory() -> None:
    """With the host's name in it."""
    host = os.uname().nodename.split(".")[0]
    assert slurm_config.spool("SlurmdSpoolDir=/var/spool/%h/%n\n") == f"/var/spool/{host}/{host}"
    assert slurm_config.spool("") == "/var/spool/slurmd"
