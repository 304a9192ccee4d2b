"""T5, T10, T17, T18, T23: what runs in a container a job has started itself has the job's rights and the job's limits."""

from __future__ import annotations

import pwd
import subprocess
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS, Instance, wait_until
from tests.support.attack import Entry, image, is_healthy
from tests.support.shim import JOBS, Job, bare, begin_bare, contained

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("images")]
_STATUS = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/self/status"
_BUSYBOX = Path("/bin/busybox").resolve().read_bytes()
_PRIVILEGES = (
    "--privileged",
    "--privileged=true",
    "--privileged=1",
    "-it --privileged",
    "-itd --privileged=T",
    "--cap-add ALL",
    "--cap-add=SYS_ADMIN",
    "--device /dev/null",
    "--device=/dev/null:/dev/x:rwm",
    "--device-cgroup-rule 'a *:* rwm'",
    "--security-opt seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt no-new-privileges:false",
    "--pid host",
    "--pid=container:x",
    "--ipc host",
    "--ipc=container:x",
    "--uts=host",
    "--userns=host",
    "--cgroupns=host",
    "--network=container:",
    "--cgroup-parent=/",
    "--volumes-from x",
    "--volume-driver x",
    "--mount type=volume,src=x,dst=/x",
    "--mount type=bind,src=/,dst=/x,bind-propagation=rshared",
    "-v $PWD:/x:rshared",
    "-v $PWD:/x:rw,shared",
    "--runtime runc",
    "--group-add 0",
    "--group-add docker",
    "-u 1",
    "-u daemon",
    "-u $(id -u):6",
    "-u $(id -un):disk",
    "--user=1:1",
    "-u0001",
    "--oom-kill-disable",
    "--oom-score-adj=-1000",
    "--sysctl kernel.core_pattern=x",
    "--ulimit core=-1",
    "--blkio-weight 1000",
    "--cpu-rt-runtime 1000",
    "--kernel-memory 1g",
    "--memory-swappiness 0",
    "--storage-opt size=1g",
    "--isolation host",
    "-p 80:80",
    "-P",
    "--link x",
    "--restart always",
    "--health-cmd id",
    "--log-driver syslog",
    "--log-opt syslog-address=tcp://127.0.0.1:1",
    "--dns 127.0.0.1",
    "--add-host a:127.0.0.1",
    "--ip 10.0.0.1",
    "--mac-address 02:42:ac:11:00:02",
)


def test_options_that_would_give_more(instance: Instance) -> None:
    """Each in its forms: nothing is started, a sentence is said, and it is the command's fault, not the node's."""
    lines = "\n".join(
        f"docker run --rm {option} {IMAGE} echo started '{option.split()[0]}' </dev/null" for option in _PRIVILEGES
    )
    done = bare(
        instance, f"{lines}\ndocker -H tcp://127.0.0.1:1 ps && echo started\ndocker --host=unix:///x ps && echo started"
    )

    assert done.stdout == b"", done.stdout
    assert len(done.stderr.splitlines()) >= len(_PRIVILEGES)
    assert is_healthy(instance)


def test_directories_in_memory(instance: Instance) -> None:
    """Whatever is asked of one, no program in it is run as its owner, and no device node opens."""
    done = bare(
        instance,
        f"for option in '--tmpfs /x:suid,exec,dev' '--mount type=tmpfs,dst=/x,tmpfs-mode=4777'; do"
        f" docker run --rm $option {IMAGE} sed -n 's#^tmpfs /x tmpfs ##p' /proc/mounts; done",
    )

    for line in done.stdout.decode().splitlines():
        assert {"nosuid", "nodev"} <= set(line.split()[0].split(",")), line


@pytest.mark.parametrize(
    "text", ["--privileged", "-v/:/x", "x --privileged", "x;id", "x$(id)", "../x", "x\ny", "-", "--", ""]
)
@pytest.mark.threat(6)
def test_words_that_look_like_options(instance: Instance, text: str) -> None:
    """In the place of an image, a name, a label, a variable, a work directory: a word, or refused; never an option."""
    done = bare(
        instance,
        f"""X={_quoted(text)}
docker run --rm -- "$X" echo started
docker run --rm --name "$X" {IMAGE} true && echo name
docker run --rm -l "$X" -e "A=$X" --annotation "a=$X" {IMAGE} sh -c 'id -u'
docker run --rm --hostname "$X" {IMAGE} id -u
docker pull -- "$X"; docker inspect -- "$X" >/dev/null; docker ps --filter "name=$X" -q; docker exec -- "$X" true; docker kill -- "$X"
""",
    )

    uid = str(pwd.getpwnam(USERS[0]).pw_uid)
    assert set(done.stdout.decode().split()) <= {uid, "name"}, (done.stdout, done.stderr)
    assert is_healthy(instance)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@pytest.mark.threat(10)
def test_the_rights_of_a_child_are_the_jobs(instance: Instance) -> None:
    """Identity, groups, capabilities, no-new-privileges and seccomp are those of a #DOCKER job, with --user root and
    --user nobody too, and by docker exec; a setuid program of its image changes nothing."""
    own = contained(instance, _STATUS).stdout
    with image("docker-setuid", [Entry("bin/busybox.root", _BUSYBOX, 0o6755)]) as hostile:
        done = bare(
            instance,
            f"for user in '' '-u root' '-u 0:0' '-u nobody' \"-u $(id -u)\"; do docker run --rm $user {IMAGE} {_STATUS} 2>/dev/null; done\n"
            f"docker run -d --name box {hostile} sleep 60 >/dev/null\ndocker exec -u 0 box {_STATUS} 2>/dev/null\n"
            f"docker exec box /bin/busybox.root {_STATUS}\n",
        )

    assert own
    assert done.stdout == own * 7, done.stdout.decode()


@pytest.mark.threat(17, 18)
@JOBS
def test_children_are_in_the_jobs_cgroup(instance: Instance, job: Job) -> None:
    """From their first process on, with what an image's shell has forked before its command; their limits are below."""
    code = "cat /proc/self/cgroup; for i in 1 2 3; do setsid sleep 300 & done; (setsid sh -c 'sleep 300 & sleep 300' &)"
    user = pwd.getpwnam(USERS[0]).pw_uid
    if job is contained:
        trial = instance.begin(
            f'#!/bin/sh\n#DOCKER {IMAGE}\ndocker run {IMAGE} sh -c "{code}; echo ready; sleep 300"\n'
        )
    else:
        trial = begin_bare(instance, f'docker run {IMAGE} sh -c "{code}; echo ready; sleep 300"')
    wait_until("it runs", lambda: b"ready" in trial.out_path.read_bytes())
    wanted = f"/{instance.name}/{trial.job.id.safe}."
    sleeping = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if _read(path) == b"sleep\x00300\x00"]
    strays = [
        line
        for path in sleeping
        if path.stat().st_uid == user
        for line in (path / "cgroup").read_text().splitlines()
        if line.split(":")[1] in ("memory", "pids", "cpu,cpuacct", "cpu", "freezer", "devices") and wanted not in line
    ]
    trial.qdel()
    trial.finish(trial.wait())

    assert len(sleeping) >= 5
    assert strays == []
    assert not [path for path in sleeping if _read(path / "cmdline") == b"sleep\x00300\x00"]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.threat(23)
def test_limits_are_shared_and_never_more(instance: Instance) -> None:
    """Three fork bombs at once stay within the job's processes together; memory, CPUs and processes beyond the job's are
    refused."""
    good = instance.config.read_text()
    instance.configure(good.replace("[limits]\n", "[limits]\npids = 120\n"))
    try:
        bomb = "for i in 1 2 3 4 5 6 7 8 9; do (for j in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait) & done 2>/dev/null; wait"
        done = bare(
            instance,
            f"""
for i in 1 2 3; do docker run -d {IMAGE} sh -c '{bomb}' >/dev/null; done
sleep 2.5; ps -u $(id -u) -o comm= | grep -c '^sleep'
docker ps -q | xargs docker rm -f >/dev/null
for more in '--memory 4g' '--memory=4294967297' '-m4g' '--pids-limit 121' '--pids-limit=999999' '--cpus 1000' '--cpuset-cpus 0-9999' '--memory 1' '--shm-size 99t'; do docker run --rm $more {IMAGE} echo started "$more"; done
docker run --rm --pids-limit -1 {IMAGE} sh -c 'cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null'
""",
            resources="mem=64mb",
        )
    finally:
        instance.configure(good)

    count, *rest = done.stdout.decode().split()
    assert 30 <= int(count) <= 120, (done.stdout, done.stderr)
    assert [word for word in rest if word != "120"] == [], (done.stdout, done.stderr)
    assert is_healthy(instance)
    assert subprocess.run(["true"], check=False).returncode == 0
