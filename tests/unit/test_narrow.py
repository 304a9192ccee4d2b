"""What a docker run inside a job may have: never more than a #DOCKER line, nor than the job. Pure."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.config.tables import parse as parse_config
from pbsdock.core.errors import Refusal
from pbsdock.core.plan import BucketGrant, Limits, Plan, Store
from pbsdock.policy.decide import HostFacts, decide, without_container
from pbsdock.policy.narrow import Own, narrow
from pbsdock.rm.torque.words import WORDS
from pbsdock.shim.commands import Run
from pbsdock.shim.parse import parse
from tests.support.torque import job, parse_options

GIB = 1 << 30
HOST = HostFacts(node="n1", memory_bytes=64 * GIB, cpus=16)
JOB = job("nodes=1:ppn=2,mem=4gb", slots_here=2, work_dir="/scratch/alice/run")


def run(text: str) -> Run:
    found = parse(shlex.split(f"run {text}"), WORDS)
    assert isinstance(found, Run)
    return found


def narrowed(text: str, config: str = "", own: Own | None = None) -> Plan:
    site = parse_config(config)
    whole = without_container(JOB, site, HOST)
    own = own or Own(plan=None, limits=whole.limits, places=["/scratch/alice/run"])
    return narrow(JOB, run(text), own, site, HOST, lambda path: path)


def refused(text: str, config: str = "", own: Own | None = None) -> Refusal:
    with pytest.raises(Refusal) as error:
        narrowed(text, config, own)
    return error.value


def test_it_has_the_jobs_limits() -> None:
    plan = narrowed("busybox true")

    assert (plan.limits.memory_bytes, plan.limits.cpu_millis, plan.uid) == (4 * GIB, 2000, JOB.uid)
    assert (plan.mounts, plan.environment, plan.workdir) == ((), (), None)


def test_it_may_have_less() -> None:
    limits = narrowed("--memory 1g --cpus 0.5 --pids-limit 10 --shm-size 64m busybox true").limits

    assert (limits.memory_bytes, limits.memory_swap_bytes, limits.cpu_millis) == (GIB, 2 * GIB, 500)
    assert (limits.pids, limits.shm_bytes) == (10, 64 << 20)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("--memory 8g busybox", "more than the job's 4"),
        ("--memory 1m busybox", "at least 6m"),
        ("--cpus 3 busybox", "more than the job's 2"),
        ("--pids-limit 100000 busybox", "more than the job's 4096"),
        ("--shm-size 8g busybox", "--shm-size asks for"),
        ("--user 4242 busybox", "runs as alice"),
        ("--user alice:4242 busybox", "runs as alice"),
        ("--gpus all busybox", "--gpus"),
        ("-v /etc/shadow:/x busybox", "/etc/shadow"),
        ("-v /var/lib/docker:/x busybox", "cannot be mounted"),
        ("-v /somewhere/docker.sock:/x busybox", "never given"),
        ("--network other busybox", "network 'other' is not allowed"),
    ],
)
def test_never_more(text: str, says: str) -> None:
    error = refused(text)

    assert says in error.sentence
    assert not error.sentence.startswith("docker run:")


def test_the_list_of_images_holds() -> None:
    assert refused("busybox true", '[images]\nallow = ["registry.test/*"]').code == "image-not-allowed"
    assert refused("busybox true", '[images]\ndeny = ["*/library/busybox"]').code == "image-not-allowed"


@pytest.mark.parametrize("user", ["alice", str(JOB.uid), f"{JOB.uid}:{JOB.gid}", "root", "0:0", "nobody"])
def test_user_is_always_the_jobs(user: str) -> None:
    assert narrowed(f"--user {user} busybox").uid == JOB.uid


def test_a_part_of_what_the_job_has_can_be_mounted() -> None:
    (mount,) = narrowed("-v /scratch/alice/run/in:/data:ro busybox").mounts

    assert (mount.source, mount.target, mount.read_only, mount.origin) == (
        "/scratch/alice/run/in",
        "/data",
        True,
        "workdir",
    )


@pytest.mark.parametrize("source", ["/scratch/alice/run2", "/scratch/alice", "/scratch"])
def test_what_only_looks_like_a_part_is_judged_as_any_other(source: str) -> None:
    assert refused(f"-v {source}:/data busybox").code == "mount-not-allowed"


@pytest.mark.parametrize("target", ["/proc/x", "/sys", "/dev/x"])
def test_kernels_places_stay(target: str) -> None:
    with pytest.raises(Refusal):
        narrowed(f"-v /scratch/alice/run:{target} busybox")


def test_dollar_signs_are_plain() -> None:
    (mount,) = narrowed("-v '/home/alice/$HOME:/data' busybox").mounts

    assert mount.source == "/home/alice/$HOME"


def test_stores_are_the_jobs_without_staging() -> None:
    grant = (BucketGrant(bucket="b", keys=("*",), read_only=True),)
    stores = (
        Store(name="a", endpoint="https://a.test", region="", ca_file="", container=grant, staging=grant),
        Store(name="b", endpoint="https://b.test", region="", ca_file="", container=(), staging=grant),
    )
    site = parse_config("")
    whole = decide(JOB, parse_options("busybox"), site, HOST)
    own = Own(plan=replace(whole, stores=stores), limits=whole.limits)

    (store,) = narrowed("busybox", own=own).stores

    assert (store.name, store.container, store.staging) == ("a", grant, ())


def test_cpus_of_the_jobs_own() -> None:
    limits = Limits(
        memory_bytes=4 * GIB, memory_swap_bytes=4 * GIB, cpu_millis=None, cpuset="2-3", pids=100, shm_bytes=1 << 20
    )
    own = Own(plan=None, limits=limits)

    assert narrowed("busybox", own=own).limits.cpuset == "2-3"
    assert narrowed("--cpuset-cpus 3 busybox", own=own).limits.cpuset == "3"
    assert refused("--cpuset-cpus 0-3 busybox", own=own).code == "cpus-not-own"
    assert refused("--cpus 2.5 busybox", own=own).code == "cpus-too-many"


@given(
    memory=st.none() | st.integers(0, 1 << 40),
    cpus=st.none() | st.integers(1, 64),
    pids=st.none() | st.integers(-1, 1 << 20),
)
def test_no_wish_widens_a_limit(memory: int | None, cpus: int | None, pids: int | None) -> None:
    text = " ".join(
        f"--{name} {value}"
        for name, value in (("memory", memory), ("cpus", cpus), ("pids-limit", pids))
        if value is not None
    )
    try:
        limits = narrowed(f"{text} busybox").limits
    except Refusal:
        return
    assert (limits.memory_bytes or 1 << 60) <= 4 * GIB
    assert (limits.cpu_millis or 1 << 60) <= 2000
    assert limits.pids <= 4096
