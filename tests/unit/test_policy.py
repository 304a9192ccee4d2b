"""Site policy and plan: decisions as tables, sentences whole."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pbsdock.config import parse
from pbsdock.directive import parse_options
from pbsdock.errors import Refusal
from pbsdock.plan import Plan
from pbsdock.policy import HostFacts, decide
from pbsdock.torque import Job, parse_job_id, parse_resource_list

HOST = HostFacts(node="n1", memory_bytes=8 << 30, cpus=4)


def _job(resources: str = "nodes=1:ppn=2,mem=1gb", **changes: object) -> Job:
    job = Job(
        id=parse_job_id("7.vm"), user="alice", group="users", uid=2001, gid=100, groups=(3001,), home="/home/alice",
        name="x", resources=parse_resource_list(resources), queue="batch", account="", script_path="/s/7.vm.SC",
        work_dir="/home/alice/run", tmpdir="/tmp/7.vm", nodefile="/s/aux/7.vm", interactive=False, slots_here=2,
        slots_total=2,
    )
    return replace(job, **changes)  # type: ignore[arg-type]


def _plan(text: str = "busybox:1", config: str = "", job: Job | None = None) -> Plan:
    return decide(job or _job(), parse_options(text, "job.sh"), parse(config), HOST)


def _refusal(text: str = "busybox:1", config: str = "", job: Job | None = None) -> tuple[str, str]:
    with pytest.raises(Refusal) as caught:
        _plan(text, config, job)
    return caught.value.code, caught.value.sentence


def test_a_whole_plan_survives_json() -> None:
    """A plan with everything in it is the same after a trip through the ledger; strange data is refused."""
    plan = _plan("-v $HOME/in:/data:ro -e A=1 -e B --read-only --tmpfs /x:size=1mb busybox:1", '[devices]\nallow=["/dev/fuse"]')

    data = json.loads(json.dumps(plan.to_dict()))
    assert Plan.from_dict(data) == plan
    with pytest.raises(ValueError, match="^plan version 99 is not 1$"):
        Plan.from_dict({**data, "version": 99})
    with pytest.raises(ValueError, match="^Plan: unknown field 'extra'$"):
        Plan.from_dict({**data, "extra": 1})


def test_mounts_of_an_ordinary_job() -> None:
    """Home, node file and TMPDIR at their own paths; the work directory below home needs none of its own."""
    found = [(one.source, one.target, one.read_only, one.origin) for one in _plan("-v $HOME/in:/data:ro a").mounts]

    assert found == [
        ("/home/alice", "/home/alice", False, "home"),
        ("/tmp/7.vm", "/tmp/7.vm", False, "tmpdir"),
        ("/s/aux/7.vm", "/s/aux/7.vm", True, "nodefile"),
        ("/home/alice/in", "/data", True, "volume"),
    ]


@pytest.mark.parametrize(("resources", "slots", "memory", "swap", "cpu"), [
    ("nodes=1:ppn=2,mem=1gb", (2, 2), 1 << 30, 1 << 30, 2000),
    ("nodes=1:ppn=2,mem=1gb,vmem=2gb", (2, 2), 1 << 30, 2 << 30, 2000),
    ("nodes=1:ppn=2,pmem=1gb", (2, 2), 2 << 30, 2 << 30, 2000),
    ("nodes=1:ppn=1,vmem=512mb", (1, 1), 512 << 20, 512 << 20, 1000),
    ("nodes=2:ppn=2,mem=4gb", (2, 4), 2 << 30, 2 << 30, 2000),
    ("nodes=1:ppn=64", (64, 64), None, None, 4000),
])  # fmt: skip
def test_limits(
    resources: str, slots: tuple[int, int], memory: int | None, swap: int | None, cpu: int
) -> None:
    """From what was granted: totals are shared by slots, slots beyond the host's CPUs are its CPUs."""
    limits = _plan(job=_job(resources, slots_here=slots[0], slots_total=slots[1])).limits

    assert (limits.memory_bytes, limits.memory_swap_bytes, limits.cpu_millis) == (memory, swap, cpu)


@pytest.mark.parametrize(("text", "config", "says"), [
    ("a/b", '[images]\nallow=["docker.io/library/*"]',
     "job.sh:1:1: image 'docker.io/a/b:latest' is not allowed at this site; allowed are docker.io/library/*"),
    ("a/b", '[images]\ndeny=["*/a/*"]',
     "job.sh:1:1: image 'docker.io/a/b:latest' is not allowed at this site; allowed are *"),
    ("a/b", "[images]\nrequire_digest=true",
     "job.sh:1:1: image 'docker.io/a/b:latest' names no digest; this site wants IMAGE@sha256:…"),
    ("--network bridge a", "", "job.sh:1:1: network 'bridge' is not allowed; use one of host, none"),
    ("-v /scratch2/x:/x a", '[mounts]\nallow=["/scratch"]',
     "job.sh:1:1: /scratch2/x cannot be mounted; this site allows paths below /scratch, /home/alice"),
    ("-v /scratch/x:/x a", '[mounts]\nallow=["/scratch:ro"]',
     "job.sh:1:1: /scratch/x can be mounted for reading only; write /scratch/x:/x:ro"),
    ("-v /proc/1:/x a", '[mounts]\nallow=["/"]',
     "job.sh:1:1: /proc/1 cannot be mounted; this site allows paths below /, /home/alice"),
    ("-e LD_PRELOAD a", "", "job.sh:1:1: --env LD_PRELOAD would take the host's own LD_PRELOAD into the container;"
                            " write --env LD_PRELOAD=VALUE"),
    ("--shm-size 2gb a", "",
     "job.sh:1:1: --shm-size asks for 2147483648 bytes; this job may have 1073741824"),
    ("--tmpfs /x:size=2gb a", "",
     "job.sh:1:1: --tmpfs /x asks for 2147483648 bytes; it lives in the job's memory of 1073741824"),
    ("--gpus 1 a", "", "job.sh:1:1: --gpus is not offered at this site"),
    ("--s3 b a", "", "job.sh:1:1: --s3: this site has no object store configured"),
])  # fmt: skip
def test_refusals(text: str, config: str, says: str) -> None:
    """Place, value, what is allowed."""
    assert _refusal(text, config)[1] == says


def test_users_and_memory() -> None:
    """System users and requests above the node are refused."""
    assert _refusal(job=_job(uid=33, user="www-data"))[1] == (
        "user www-data has uid 33; containers are for users from uid 1000 on"
    )
    assert _refusal(job=_job("mem=9gb"))[1] == (
        "mem asks for 9663676416 bytes on n1; a container may have 8589934592 there"
    )
    assert _refusal(config="[limits]\nmax_memory='512mb'")[0] == "memory-too-large"


def test_first_override_wins() -> None:
    """An override replaces whole tables for the jobs it matches, in order."""
    config = (
        "[network]\ndefault='none'\n"
        "[[override]]\nqueues=['batch']\nusers=['bob']\n[override.network]\ndefault='bob'\n"
        "[[override]]\nusers=['alice']\n[override.network]\ndefault='first'\n"
        "[[override]]\nusers=['alice']\n[override.network]\ndefault='second'\n"
    )

    assert _plan(config=config).network == "first"
    assert _plan(config=config, job=_job(user="carol")).network == "none"
