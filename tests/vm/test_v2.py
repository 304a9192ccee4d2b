"""On a real systemd, cgroup v2 and Docker, in a virtual machine: what cannot be had on a development machine.

The tests share one machine and run in this order; each leaves it empty.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.moms_unit import drop_in as moms_drop_in
from tests.vm.lab import MOM_PRIV, Lab

# Three starts within a minute are its unit's limit, which is not what is tried here.
RESTART = "systemctl reset-failed docker.service docker.socket; systemctl restart docker"

pytestmark = [pytest.mark.engine, pytest.mark.timeout(2400)]


def events(lab: Lab, job: str = "") -> list[dict[str, object]]:
    found = [json.loads(line) for line in lab.check("cat /var/log/pbsdock/events.jsonl").splitlines()]
    return [one for one in found if not job or one.get("job") == job]


def finished(lab: Lab, unit: str) -> dict[str, object]:
    """Wait until the job of a unit is over; returns its last event, which may come a moment after the epilogue."""
    job = [one for one in events(lab) if one["event"] == "job.started"][-1]["job"]
    lab.until(f"the job of {unit} is over", f"! systemctl is-active -q {unit}")
    lab.until("its trail ends", f'grep -q \'"job.finished".*"job":"{job}"\' /var/log/pbsdock/events.jsonl')
    return next(one for one in events(lab, str(job)) if one["event"] == "job.finished")


def daemon(lab: Lab, settings: str) -> None:
    """Restart the engine with other settings and wait until the agent has noticed."""
    lab.check(f"echo '{settings}' >/etc/docker/daemon.json")
    lab.check(f"{RESTART} && docker info >/dev/null")


def with_cgroupfs(lab: Lab) -> None:
    """Give the engine its other driver, if it has not got it; the agent notices by itself."""
    if "cgroupfs" not in lab.check("docker info --format '{{.CgroupDriver}}'"):
        daemon(lab, '{"exec-opts": ["native.cgroupdriver=cgroupfs"]}')


@pytest.mark.smoke
def test_the_installer_says_what_it_chose(lab: Lab) -> None:
    """Version, driver and init as found, the agent as a service behind its socket, events in the journal too."""
    said = lab.check("cat /root/install.log")

    assert "this host: cgroup v2, systemd, engine driver systemd: each job gets a slice below pbsdock.slice" in said
    assert "the agent is a systemd service: pbsdock-agent.service behind pbsdock-agent.socket" in said
    assert "events go to /var/log/pbsdock/events.jsonl and to the journal: journalctl -t pbsdock JOB=ID" in said
    assert lab.check("systemctl is-active pbsdock-agent.service pbsdock-agent.socket").split() == ["active", "active"]


@pytest.mark.smoke
def test_the_life_of_a_job_with_the_systemd_driver(lab: Lab) -> None:
    """The file that runs on version 1 outside."""
    assert "4 passed" in lab.inside("tests/engine/test_lifecycle.py")
    assert lab.left() == ""


@pytest.mark.full
@pytest.mark.smoke
def test_what_the_package_knows_of_this_engine(lab: Lab) -> None:
    """Every field of its HostConfig has been looked at, and the profile of calls differs from its own by what is added."""
    assert "2 passed" in lab.inside(
        "tests/engine/test_zz_whole.py::test_every_host_config_field_is_decided",
        "tests/engine/test_seccomp.py::test_the_rest_is_as_the_engine_has_it",
    )


@pytest.mark.full
def test_systemd_does_as_it_likes_in_mid_job(lab: Lab) -> None:
    """Inside the machine: slices, limits and the traps of systemd, one by one."""
    summary = lab.inside("tests/vm/inside/test_systemd.py")

    assert re.search(r"[1-9]\d* passed", summary)
    assert lab.left() == ""


def reset_in_mid_job(lab: Lab) -> None:
    """Pull the plug while a job runs: after the boot nothing of the old one is left, and a new job runs."""
    lab.job("before", "sleep 600")
    running = [one for one in events(lab) if one["event"] == "job.started"][-1]["job"]
    lab.check("sync")  # what is proved is the reconciling of a boot; records that never reached the disk need none

    lab.machine.reset()

    lab.until(
        "the old boot's job is released", f'grep -q \'"release.done".*"{running}"\' /var/log/pbsdock/events.jsonl'
    )
    why = [one["why"] for one in events(lab, str(running)) if one["event"] == "release.done"]
    assert why == ["other-boot"]
    assert lab.left() == ""
    lab.job("after", "exit 3")
    end = finished(lab, "after")
    assert (end["code"], end["outcome"]) == (3, "ran")
    assert lab.left() == ""


def test_a_hard_reset_in_mid_job(lab: Lab) -> None:
    """With slices, which a boot finds no trace of."""
    reset_in_mid_job(lab)


@pytest.mark.full
def test_a_hung_agent_is_replaced_in_mid_job(lab: Lab) -> None:
    """Stopped, it answers nobody: the watchdog ends it, the next one goes on with the job, whose output and code are whole."""
    shorter = "/run/systemd/system/pbsdock-agent.service.d/watchdog.conf"
    lab.check(f"mkdir -p {Path(shorter).parent} && printf '[Service]\\nWatchdogSec=30\\n' >{shorter}")
    lab.check("systemctl daemon-reload && systemctl restart pbsdock-agent")
    lab.job("hung", "until [ -e go ]; do sleep 1; done; rm go; echo whole; exit 6")
    before = lab.check("systemctl show -P MainPID pbsdock-agent").strip()

    lab.check("systemctl kill -s STOP pbsdock-agent")
    lab.until(
        "another agent answers",
        f"systemctl is-active pbsdock-agent && test $(systemctl show -P MainPID pbsdock-agent) != {before}",
    )
    assert "Watchdog timeout" in lab.check("journalctl -q -u pbsdock-agent -o cat")
    assert len(lab.check("docker ps -q").split()) == 1
    lab.check("su pbsdock-a -c 'touch $HOME/go'")
    assert finished(lab, "hung")["code"] == 6
    assert "whole" in lab.check("journalctl -q -u hung -o cat")
    assert lab.left() == ""
    lab.check(f"rm {shorter} && systemctl daemon-reload && systemctl restart pbsdock-agent")


@pytest.mark.full
def test_moms_unit_takes_neither_agent_nor_job_along(lab: Lab) -> None:
    """It is stopped with all that is in it: the container runs on, the agent is the same, and the reaper finds both."""
    lab.job("mom", "sleep 600")
    agent = lab.check("systemctl show -P MainPID pbsdock-agent")
    lab.check("systemctl kill -s KILL mom")
    lab.until("all of it is gone", "! systemctl is-active -q mom")

    assert len(lab.check("docker ps -q").split()) == 1
    assert lab.check("systemctl show -P MainPID pbsdock-agent") == agent
    lab.check(f"rm -f {MOM_PRIV}/jobs/*")
    lab.check("sed -i 's/^.*grace_s = 120.0/grace_s = 0/' /etc/pbsdock/pbsdock.toml && systemctl restart pbsdock-agent")
    assert lab.left() == ""  # an agent begins with a pass of the reaper


@pytest.mark.full
def test_the_engine_is_restarted_in_mid_job(lab: Lab) -> None:
    """It takes the job along, which is told as what it is; with live-restore the job notices nothing."""
    lab.job("plain", "sleep 600")
    lab.check(RESTART)
    end = finished(lab, "plain")
    assert end["code"] in (137, 143)
    assert "the Docker engine of this node was restarted while the job ran" in lab.check(
        "journalctl -q -u plain -o cat"
    )
    assert lab.left() == ""

    daemon(lab, '{"live-restore": true}')
    lab.job("kept", "until [ -e go ]; do sleep 1; done; rm go; exit 4")
    lab.check(f"{RESTART} && su pbsdock-a -c 'touch $HOME/go'")
    assert finished(lab, "kept")["code"] == 4
    assert lab.left() == ""


@pytest.mark.full
def test_the_life_of_a_job_with_crun(lab: Lab) -> None:
    """Another runtime of the engine's: the same file."""
    daemon(lab, '{"runtimes": {"crun": {"path": "/usr/bin/crun"}}}')

    assert "4 passed" in lab.inside("tests/engine/test_lifecycle.py", config='[engine]\nruntime = "crun"\n')
    assert lab.left() == ""
    daemon(lab, "{}")


@pytest.mark.full
def test_the_life_of_a_job_with_the_cgroupfs_driver(lab: Lab) -> None:
    """The same file again."""
    with_cgroupfs(lab)

    assert "4 passed" in lab.inside("tests/engine/test_lifecycle.py")
    assert lab.left() == ""


@pytest.mark.full
def test_the_life_of_a_job_below_moms_unit(lab: Lab) -> None:
    """That driver's other layout: a delegated cgroup, what makes it one, and the same file once more."""
    with_cgroupfs(lab)
    summary = lab.inside("tests/vm/inside/test_delegated.py")
    assert re.search(r"[1-9]\d* passed", summary)

    unit = "/run/systemd/system/pbs_mom.service"
    lab.check(f"cat >{unit} <<'END'\n{moms_drop_in()}END\nsystemctl daemon-reload && systemctl start pbs_mom")
    assert "4 passed" in lab.inside(
        "tests/engine/test_lifecycle.py", config='[cgroup]\nparent = "/system.slice/pbs_mom.service"\n'
    )
    assert lab.left() == ""
    lab.check(f"systemctl kill -s KILL pbs_mom; systemctl stop pbs_mom; rm {unit} && systemctl daemon-reload")


@pytest.mark.full
def test_a_hard_reset_with_the_cgroupfs_driver(lab: Lab) -> None:
    """With directories of our own, which a boot finds no trace of either."""
    with_cgroupfs(lab)
    reset_in_mid_job(lab)


@pytest.mark.full
def test_logs_rotate_and_the_installer_takes_everything_back(lab: Lab) -> None:
    """No event is lost by logrotate, the installer's own check is content, and after --uninstall no unit is left."""
    lab.check("systemctl start pbsdock-agent")  # returns when the one that is being restarted is ready
    before = int(str(events(lab)[-1]["seq"]))
    lab.check("logrotate -f /etc/logrotate.d/pbsdock && systemctl restart pbsdock-agent")
    assert [one["seq"] for one in events(lab)][:2] == [before + 1, before + 2]

    said = lab.check(f"/opt/src/install.sh --mom-priv {MOM_PRIV} --check")
    version, note, verdict = said.splitlines()  # the machine has no Torque
    assert version.startswith("version ")
    assert note.startswith("note: pbs_track is not in the usual places, nor beside a pbs_mom that runs: ")
    assert verdict == f"pbsdock is installed correctly in {MOM_PRIV}"
    lab.check(f"/opt/src/install.sh --mom-priv {MOM_PRIV} --uninstall")
    assert (
        lab.check(
            "systemctl list-unit-files --no-legend 'pbsdock*'; ls /etc/tmpfiles.d /etc/logrotate.d | grep pbsdock; true"
        )
        == ""
    )
    assert (
        lab.check("systemctl list-units --all --plain --no-legend 'pbsdock*'; find /sys/fs/cgroup -name '*pbsdock*'")
        == ""
    )
