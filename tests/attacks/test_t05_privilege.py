"""T5: no option, and no container, has a privilege, a namespace of the host's, a capability or a device."""

from __future__ import annotations

import os

import pytest

from tests.conftest import IMAGE, Instance, wait_until

pytestmark = pytest.mark.engine
OPTIONS = (
    "--privileged",
    "--cap-add ALL",
    "--cap-add=SYS_ADMIN",
    "--pid host",
    "--ipc host",
    "--uts=host",
    "--userns host",
    "--cgroupns host",
    "--device /dev/sda",
    "--device=/dev/kmsg",
    "--device-cgroup-rule 'a *:* rwm'",
    "--user 0",
    "-u root",
    "--group-add 0",
    "--security-opt seccomp=unconfined",
    "--security-opt apparmor=unconfined",
    "--volumes-from x",
    "--mount type=bind,src=/,dst=/h",
    "--cgroup-parent /",
    "--runtime runc",
    "--sysctl kernel.x=1",
    "--ulimit nofile=1",
    "--oom-score-adj -1000",
    "--pids-limit -1",
    "--memory 0",
    "--restart always",
    "--init",
    "--rm",
    "--name x",
    "--label pbsdock.owner=x",
    "-p 80:80",
    "--publish-all",
    "--add-host x:1.1.1.1",
    "--link x",
    "--network container:x",
    "--log-driver syslog",
    "--storage-opt size=1",
    "--tmpfs /proc",
    "--isolation x",
    "-d",
)


@pytest.mark.parametrize("option", OPTIONS)
def test_option_is_refused(instance: Instance, option: str) -> None:
    """A sentence about that place in the script, 125, nothing started."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {option} {IMAGE}\necho started\n")

    assert (done.exit_status, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"pbsdock: STDIN:2:")


def test_what_runs_has_nothing(instance: Instance) -> None:
    """The engine's and the kernel's own account of a job's container."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready\nsleep 60\n")
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    found = instance.inspect(trial.job_id)
    pid = found["State"]["Pid"]
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    apart = {
        one
        for one in ("pid", "mnt", "ipc", "uts", "cgroup")
        if os.readlink(f"/proc/{pid}/ns/{one}") != os.readlink(f"/proc/self/ns/{one}")
    }
    trial.qdel()
    trial.finish(trial.wait())
    host = found["HostConfig"]

    assert (host["Privileged"], host["CapDrop"], host["CapAdd"], host["Devices"]) == (False, ["ALL"], [], [])
    assert [option.partition("=")[0] for option in host["SecurityOpt"]] == ["no-new-privileges", "seccomp"]
    assert host["RestartPolicy"]["Name"] == "no"
    assert host["PidMode"] == host["UTSMode"] == host["UsernsMode"] == ""
    assert not host["PortBindings"]
    assert not host["PublishAllPorts"]
    assert (status["CapEff"], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]) == (
        "0" * 16,
        "0" * 16,
        "1",
        "2",
    )
    assert set(status["Uid"].split()) == {str(trial.entry.pw_uid)}
    assert apart == {"pid", "mnt", "ipc", "uts", "cgroup"}
