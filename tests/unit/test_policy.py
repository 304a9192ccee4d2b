"""Site policy: decisions as tables, sentences whole."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.config.tables import parse
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.pathrules import ClosedPaths, below
from pbsdock.core.plan import Mount, Plan
from pbsdock.policy.decide import HostFacts, decide, effective
from pbsdock.rm.base import Job
from pbsdock.rm.torque.grant import gpus_on
from tests.conftest import ROOT
from tests.support.torque import job, parse_options, parse_script

HOST = HostFacts(node="n1", memory_bytes=8 << 30, cpus=4)
DIGEST = "sha256:" + "0123456789abcdef" * 4
GIB = 1 << 30


def _job(
    resources: str = "nodes=1:ppn=2,mem=1gb", *, slots_here: int = 2, slots_total: int | None = None, **changes: Any
) -> Job:
    return job(resources, slots_here=slots_here, slots_total=slots_total, **changes)


def _plan(text: str = "busybox:1", config: str = "", job: Job | None = None, host: HostFacts = HOST) -> Plan:
    return decide(job or _job(), parse_options(text, filename="job.sh"), parse(config), host)


def _refusal(
    text: str = "busybox:1", config: str = "", job: Job | None = None, host: HostFacts = HOST
) -> tuple[str, str]:
    with pytest.raises(Refusal) as caught:
        _plan(text, config, job, host)
    return caught.value.code, caught.value.sentence


# -- users ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "changes", "says"),
    [
        ("", {"uid": 0, "user": "root"}, "user root has uid 0; containers are for users from uid 1000 on"),
        (
            "[users]\nmin_uid = 1",
            {"uid": 0, "user": "root"},
            "user root has uid 0; containers are for users from uid 1 on",
        ),
        ("", {"uid": 999}, "user alice has uid 999; containers are for users from uid 1000 on"),
        ("[users]\ndeny = ['alice']", {}, "user alice may not run containers at this site"),
        (
            "[users]\nallow_groups = ['bio', '42']",
            {},
            "user alice may not run containers at this site; members of bio, 42 may",
        ),
    ],
)
def test_user_is_refused(config: str, changes: dict[str, Any], says: str) -> None:
    """Root and system users always, others by name or group."""
    assert _refusal(config=config, job=_job(**changes)) == ("user-not-allowed", says)


@pytest.mark.parametrize("group", ["users", "100", "3001"])
def test_group_by_name_or_number(group: str) -> None:
    """A primary group by name or number, a supplementary one by number."""
    assert _plan(config=f"[users]\nallow_groups = ['{group}']").user == "alice"


# -- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "image", "allowed"),
    [
        ("*", "busybox", True),
        ("docker.io/library/*", "busybox:1", True),
        ("docker.io/library/busybox", "busybox:1", True),
        ("docker.io/library/busybox:1", "busybox:1", True),
        ("docker.io/library/busybox:1.*", "busybox:1", False),
        ("docker.io/library/*", "bio/busybox", False),
        ("docker.io/*", "bio/deep/busybox", True),
        ("*.example.org/*", "hub.example.org/a/b", True),
        ("*.example.org/*", "evil.test/x.example.org/y", False),
        ("quay.io/*", "QUAY.io/a", True),
        ("quay.io/*", "quay.io:443/a", True),
        ("quay.io/*", "quay.io:5000/a", False),
        (DIGEST, f"busybox@{DIGEST}", True),
        (DIGEST, "busybox", False),
        (f"docker.io/library/busybox@{DIGEST}", f"busybox:1@{DIGEST}", True),
        ("localhost/*", "localhost/a", True),
    ],
)
def test_image_pattern(pattern: str, image: str, allowed: bool) -> None:
    """The same pattern allows and denies the same images; registry and repository are matched apart."""
    if allowed:
        _plan(image, f"[images]\nallow = ['{pattern}']")
        assert _refusal(image, f"[images]\ndeny = ['{pattern}']")[0] == "image-not-allowed"
    else:
        _plan(image, f"[images]\ndeny = ['{pattern}']")
        assert _refusal(image, f"[images]\nallow = ['{pattern}']")[0] == "image-not-allowed"


def test_long_list_of_images_is_cut() -> None:
    """A sentence names eight patterns at most."""
    patterns = [f"r{index}.org/*" for index in range(10)]

    assert _refusal("a", f"[images]\nallow = {patterns}") == (
        "image-not-allowed",
        "job.sh:1:1: image 'docker.io/library/a:latest' is not allowed at this site; allowed are r0.org/*, r1.org/*,"
        " r2.org/*, r3.org/*, r4.org/*, r5.org/*, r6.org/*, r7.org/* and 2 more",
    )


@pytest.mark.parametrize(
    ("site", "directive", "chosen"),
    [
        ("missing", "", "missing"),
        ("never", "", "never"),
        ("always", "--pull never", "never"),
        ("missing", "--pull always", "always"),
        ("never", "--pull never", "never"),
    ],
)
def test_pull(site: str, directive: str, chosen: str) -> None:
    """The directive's, else the site's."""
    assert _plan(f"{directive} a", f"[images]\npull = '{site}'").pull == chosen


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "config", "code", "says"),
    [
        (
            "a/b",
            '[images]\nallow=["docker.io/library/*"]',
            "image-not-allowed",
            "1:1: image 'docker.io/a/b:latest' is not allowed at this site; allowed are docker.io/library/*",
        ),
        (
            "a/b",
            "[images]\nallow=[]",
            "image-not-allowed",
            "1:1: image 'docker.io/a/b:latest' is not allowed at this site; allowed are none",
        ),
        (
            "a/b",
            '[images]\ndeny=["*/a/*"]',
            "image-not-allowed",
            "1:1: image 'docker.io/a/b:latest' is not allowed at this site: */a/* is on its list of images that may not run",
        ),
        (
            "a/b",
            "[images]\nrequire_digest=true",
            "image-not-pinned",
            "1:1: image 'docker.io/a/b:latest' names no digest; this site wants IMAGE@sha256:…",
        ),
        (
            "--pull missing a",
            "[images]\npull='never'",
            "pull-not-allowed",
            "1:1: --pull missing: this site runs only images that are on the node already",
        ),
        (
            "--network bridge a",
            "",
            "network-not-allowed",
            "1:1: network 'bridge' is not allowed; use one of host, none",
        ),
        (
            "--network host a",
            "[network]\ndefault='none'\nallow=[]",
            "network-not-allowed",
            "1:1: network 'host' is not allowed; use one of none",
        ),
        (
            "-v /scratch2/x:/x a",
            '[mounts]\nallow=["/scratch"]',
            "mount-not-allowed",
            "1:1: /scratch2/x cannot be mounted: this site allows paths below /scratch, /home/alice",
        ),
        (
            "-v $HOME:/x a",
            '[mounts]\nhome="none"',
            "mount-not-allowed",
            "1:1: /home/alice cannot be mounted: this site allows paths below no path",
        ),
        (
            "-v $HOME:/x a",
            '[mounts]\nhome="ro"',
            "mount-read-only",
            "1:1: /home/alice can be mounted for reading only; write /home/alice:/x:ro",
        ),
        (
            "-v /scratch/x:/x a",
            '[mounts]\nallow=["/scratch:ro"]',
            "mount-read-only",
            "1:1: /scratch/x can be mounted for reading only; write /scratch/x:/x:ro",
        ),
        (
            "-v /scratch/a:/x a",
            '[mounts]\nallow=["/scratch"]\ndeny=["/scratch/a"]',
            "mount-not-allowed",
            "1:1: /scratch/a cannot be mounted: this site keeps /scratch/a closed",
        ),
        (
            "-v /scratch:/x a",
            '[mounts]\nallow=["/scratch"]\ndeny=["/scratch/a"]',
            "mount-not-allowed",
            "1:1: /scratch cannot be mounted: it contains /scratch/a, which this site closed",
        ),
        (
            "-v /var:/x a",
            '[mounts]\nallow=["/"]',
            "mount-not-allowed",
            "1:1: /var cannot be mounted: it contains /var/run",
        ),
        (
            "-e A=1 -e LD_PRELOAD a",
            "",
            "variable-not-allowed",
            "1:8: --env LD_PRELOAD would take the host's own LD_PRELOAD into the container; write --env LD_PRELOAD=VALUE",
        ),
        (
            "--shm-size 2gb a",
            "",
            "shm-too-large",
            "1:1: --shm-size asks for 2147483648 bytes; this job may have 1073741824",
        ),
        (
            "--shm-size 65mb a",
            "[limits]\nmax_shm='64mb'",
            "shm-too-large",
            "1:1: --shm-size asks for 68157440 bytes; this job may have 67108864",
        ),
        (
            "--tmpfs /y --tmpfs /x:size=2gb a",
            "",
            "tmpfs-too-large",
            "1:12: --tmpfs /x asks for 2147483648 bytes; it lives in the job's memory of 1073741824",
        ),
        ("-v $HOME/a:/x --tmpfs /x/ a", "", "target-taken", "1:15: --tmpfs path '/x/' is used twice; choose another"),
        (
            "-v $HOME/a:/home/alice/x -v $HOME/b:$HOME/x a",
            "",
            "target-taken",
            "1:26: --volume target '/home/alice/x' is used twice; choose another",
        ),
        (
            "-v $HOME/a:/etc a",
            "",
            "target-taken",
            "1:1: --volume target '/etc' would cover /etc/passwd, which every container gets; choose another",
        ),
        (
            "--tmpfs /s a",
            "",
            "target-taken",
            "1:1: --tmpfs path '/s' would cover /s/7.vm.SC, which every container gets; choose another",
        ),
        (
            "-v $HOME/a:/opt/site a",
            '[mounts]\nalways=["/opt/site:/opt/site:ro"]',
            "target-taken",
            "1:1: --volume target '/opt/site' is where this site mounts its own; choose another",
        ),
        ("--gpus 1 a", "", "gpus-not-offered", "1:1: --gpus is not offered at this site"),
        (
            "--gpus 1 a",
            "[devices]\ngpus=true",
            "gpus-not-granted",
            "1:1: --gpus needs GPUs granted by the scheduler; ask with qsub -l nodes=1:gpus=N",
        ),
        ("--s3 b a", "", "s3-not-configured", "1:1: --s3: this site has no object store configured"),
        (
            "--stage-in s3://b/k /x a",
            "",
            "s3-not-configured",
            "1:1: --stage-in: this site has no object store configured",
        ),
    ],
)
def test_refusal(text: str, config: str, code: str, says: str) -> None:
    """Place, value, what is allowed."""
    assert _refusal(text, config) == (code, f"job.sh:{says}")


def test_line_of_the_script() -> None:
    """The sentence has the line and column in the script, not in the directive."""
    directive = parse_script(b"#!/bin/sh\n#DOCKER busybox\n#DOCKER  --s3 b\ntrue\n", filename="script.sh")
    assert directive is not None

    with pytest.raises(Refusal) as caught:
        decide(_job(), directive, parse(""), HOST)
    assert caught.value.sentence == "script.sh:3:10: --s3: this site has no object store configured"


# -- variables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-v $HOME/a:/x --workdir ${PBS_O_WORKDIR} a", "1:15: $PBS_O_WORKDIR"),
        ("-v $HOME/a:/x -v $PBS_O_WORKDIR/x:/y a", "1:15: $PBS_O_WORKDIR"),
        ("-e A=$HOME -e B=$TMPDIR/x a", "1:12: $TMPDIR"),
        ("--tmpfs $TMPDIR a", "1:1: $TMPDIR"),
    ],
)
def test_variable_the_job_does_not_have(text: str, says: str) -> None:
    """The option that uses it is named, not the first of its kind."""
    job = _job(work_dir=None, tmpdir=None)

    assert _refusal(text, job=job) == ("no-such-variable", f"job.sh:{says} is not set for this job on this node")


@pytest.mark.parametrize("forged", ["/scratch/../etc", "scratch", "/scratch/a\nb"])
def test_forged_work_directory(forged: str) -> None:
    """PBS_O_WORKDIR is the owner's to set: no spelling of it climbs out of a prefix or breaks a sentence."""
    job = _job(work_dir=forged)

    assert [one.origin for one in _plan("a", "[mounts]\nallow=['/scratch']", job).mounts] == [
        "home",
        "tmpdir",
        "nodefile",
    ]
    assert _refusal("-v $PBS_O_WORKDIR:/x a", "[mounts]\nallow=['/scratch']", job) == (
        "path-not-plain",
        f"job.sh:1:1: --volume source {forged!r} is not an absolute path without '..' and control characters",
    )


@pytest.mark.parametrize("target", ["/proc/sys", "/sys", "/dev", "/dev/shm"])
def test_forged_target(target: str) -> None:
    """Nor does it bring a mount over the kernel's directories."""
    assert _refusal("-v $HOME/x:$PBS_O_WORKDIR a", job=_job(work_dir=target)) == (
        "target-not-allowed",
        f"job.sh:1:1: --volume target {target!r} belongs to the kernel; choose another",
    )


# -- mounts -----------------------------------------------------------------------------------------------------------


def _shown(mounts: tuple[Mount, ...]) -> list[str]:
    return [
        f"{one.origin} {one.source}:{one.target}:{'ro' if one.read_only else 'rw'}{' required' * one.required}"
        for one in mounts
    ]


def test_mounts_in_their_order() -> None:
    """Home, work directory, TMPDIR, node file, the site's, the volumes; the last two are required."""
    plan = _plan(
        "-v $HOME/in/:/data//x:ro a",
        '[mounts]\nallow=["/scratch:ro"]\nalways=["/opt/site:/opt"]',
        _job(work_dir="/scratch/run"),
    )

    assert _shown(plan.mounts) == [
        "home /home/alice:/home/alice:rw",
        "workdir /scratch/run:/scratch/run:ro",
        "tmpdir /tmp/7.vm:/tmp/7.vm:rw",
        "nodefile /s/aux/7.vm:/s/aux/7.vm:ro",
        "site /opt/site:/opt:rw required",
        "volume /home/alice/in:/data/x:ro required",
    ]
    assert plan.mounts[-1].where == "job.sh:1:1"


@pytest.mark.parametrize(
    ("config", "work_dir", "expected"),
    [
        ("", "/home/alice/run", ["home /home/alice:/home/alice:rw"]),
        ("", "/scratch/x", ["home /home/alice:/home/alice:rw", "workdir /scratch/x:/scratch/x:rw"]),
        ("", "/usr/local/x", ["home /home/alice:/home/alice:rw"]),
        ("", "/var/x", ["home /home/alice:/home/alice:rw"]),
        ("", "/etc", ["home /home/alice:/home/alice:rw"]),
        ("[mounts]\nallow=['/var/x']", "/var/x/y", ["home /home/alice:/home/alice:rw", "workdir /var/x/y:/var/x/y:rw"]),
        ("[mounts]\nwork_dir='allowed'", "/scratch/x", ["home /home/alice:/home/alice:rw"]),
        ("[mounts]\nwork_dir='none'\nallow=['/scratch']", "/scratch/x", ["home /home/alice:/home/alice:rw"]),
        (
            "[mounts]\nwork_dir=true",
            "/scratch/x",
            ["home /home/alice:/home/alice:rw", "workdir /scratch/x:/scratch/x:rw"],
        ),
        (
            "[mounts]\nallow=['/scratch/x/ref:ro']",
            "/scratch/x",
            ["home /home/alice:/home/alice:rw", "workdir /scratch/x:/scratch/x:ro"],
        ),
        ("[mounts]\nhome='ro'", "/home/alice/run", ["home /home/alice:/home/alice:ro"]),
        ("[mounts]\nhome='none'", "/home/alice/run", []),
        ("[mounts]\nhome='none'\nallow=['/home']", "/home/alice/run", ["workdir /home/alice/run:/home/alice/run:rw"]),
        ("[mounts]\nallow=['/scratch']\nwork_dir=false", "/scratch/x", ["home /home/alice:/home/alice:rw"]),
        ("[mounts]\nallow=['/']", "/run/user/1", ["home /home/alice:/home/alice:rw"]),
        ("[mounts]\nallow=['/']\ndeny=['/scratch']", "/scratch/x", ["home /home/alice:/home/alice:rw"]),
        (
            "[mounts]\nallow=['/scratch:ro', '/scratch/tmp']",
            "/scratch/tmp/x",
            ["home /home/alice:/home/alice:rw", "workdir /scratch/tmp/x:/scratch/tmp/x:rw"],
        ),
    ],
)
def test_home_and_work_directory(config: str, work_dir: str, expected: list[str]) -> None:
    """As policy says; the work directory below home needs no mount of its own, the longest prefix decides."""
    plan = _plan("a", config, _job(work_dir=work_dir, tmpdir=None, nodefile=None))

    assert _shown(plan.mounts) == expected


@pytest.mark.parametrize("home", ["", "/", "/run/service", "/var", "/home/../etc", "relative"])
def test_strange_home_opens_nothing(home: str) -> None:
    """A service account's home is neither mounted nor a prefix for volumes."""
    job = _job(home=home, work_dir=None, tmpdir=None, nodefile=None)

    assert _plan("a", job=job).mounts == ()
    assert _refusal("-v /etc/ssl:/x a", job=job) == (
        "mount-not-allowed",
        "job.sh:1:1: /etc/ssl cannot be mounted: this site allows paths below no path",
    )


@pytest.mark.parametrize(
    "source",
    [
        "/",
        "/proc",
        "/proc/1",
        "/sys/fs",
        "/dev/sda",
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/var/lib/docker/x",
        "/boot",
        "/var/spool/torque/mom_priv",
        "/srv/spool/mom_priv",
        "/var/lib",
        "/srv",
        "/var//run/./x",
    ],
)
def test_system_paths_whatever_the_site_allows(source: str) -> None:
    """What is the host's is never mounted, nor what contains it, even if `allow` has the root."""
    host = replace(HOST, closed=ClosedPaths(guarded=("/srv/spool",)))

    assert _refusal(f"-v {source}:/x a", "[mounts]\nallow=['/']", host=host)[0] == "mount-not-allowed"


def test_directive_takes_the_place_of_an_automatic_mount() -> None:
    """A volume or tmpfs at TMPDIR or home replaces ours, so that no two mounts meet."""
    plan = _plan("-v $HOME/t:$TMPDIR --tmpfs $HOME a")

    assert _shown(plan.mounts) == [
        "nodefile /s/aux/7.vm:/s/aux/7.vm:ro",
        "volume /home/alice/t:/tmp/7.vm:rw required",
    ]


_NAMES = st.sampled_from(["scratch", "scratch2", "etc", "home", "alice", "alicex", "run", "var", "lib", "docker", "x"])
_PATHS = st.lists(_NAMES | st.just("."), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(_PATHS, max_size=3), _PATHS)
def test_no_volume_outside_the_prefixes(allow: list[str], source: str) -> None:
    """Whatever is mounted lies below an allowed prefix or home, and neither in a system path nor around one."""
    try:
        plan = _plan(f"-v {source}:/data a", f"[mounts]\nallow = {allow}")
    except Refusal as error:
        assert error.code == "mount-not-allowed"
        return

    volume = plan.mounts[-1]
    assert any(below(volume.source, one) for one in (*allow, "/home/alice"))
    assert not any(below(volume.source, one) or below(one, volume.source) for one in ("/run", "/var/lib/docker"))


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resources", "slots", "memory", "swap", "cpu"),
    [
        ("nodes=1:ppn=2,mem=1gb", (2, 2), GIB, GIB, 2000),
        ("nodes=1:ppn=2,mem=1gb,vmem=2gb", (2, 2), GIB, 2 * GIB, 2000),
        ("nodes=1:ppn=2,mem=2gb,vmem=1gb", (2, 2), GIB, GIB, 2000),
        ("nodes=1:ppn=2,mem=1gb,pmem=1gb", (2, 2), GIB, GIB, 2000),
        ("nodes=1:ppn=2,pmem=1gb,vmem=1gb", (2, 2), GIB, GIB, 2000),
        ("nodes=1:ppn=2,pmem=1gb", (2, 2), 2 * GIB, 2 * GIB, 2000),
        ("nodes=1:ppn=2,pmem=1gb,pvmem=3gb", (2, 2), 2 * GIB, 2 * GIB, 2000),
        ("nodes=1:ppn=2,pvmem=1gb", (2, 2), 2 * GIB, 2 * GIB, 2000),
        ("nodes=1:ppn=1,vmem=512mb", (1, 1), 512 << 20, 512 << 20, 1000),
        ("nodes=2:ppn=2,mem=4gb,vmem=8gb", (2, 4), 2 * GIB, 4 * GIB, 2000),
        ("nodes=1:ppn=1,mem=1gb,vmem=900000pb", (1, 1), GIB, 1 << 60, 1000),
        ("nodes=1:ppn=64", (64, 64), None, None, 4000),
        ("ncpus=3", (1, 1), None, None, 3000),
        ("nodes=1:ppn=1,ncpus=3", (1, 1), None, None, 1000),
    ],
)
def test_limits(resources: str, slots: tuple[int, int], memory: int | None, swap: int | None, cpu: int) -> None:
    """From what was granted: totals are shared by slots, slots beyond the host's CPUs are its CPUs."""
    limits = _plan(job=_job(resources, slots_here=slots[0], slots_total=slots[1])).limits

    assert (limits.memory_bytes, limits.memory_swap_bytes, limits.cpu_millis) == (memory, swap, cpu)


@pytest.mark.parametrize(
    ("config", "memory"),
    [
        ("", None),
        ("default_memory='1gb'", GIB),
        ("default_memory='100gb'", 8 * GIB),
        ("default_memory='100gb'\nreserve_memory='2gb'", 6 * GIB),
        ("max_memory='2gb'", 2 * GIB),
        ("reserve_memory='2gb'", 6 * GIB),
    ],
)
def test_memory_of_a_job_that_asks_for_none(config: str, memory: int | None) -> None:
    """Never more than a job may ask for."""
    assert _plan(config=f"[limits]\n{config}", job=_job("nodes=1")).limits.memory_bytes == memory


@pytest.mark.parametrize(
    ("resources", "config", "says"),
    [
        ("mem=9gb", "", "mem asks for 9663676416 bytes on n1; a container may have 8589934592 there"),
        (
            "mem=8gb",
            "reserve_memory='1gb'",
            "mem asks for 8589934592 bytes on n1; a container may have 7516192768 there",
        ),
        (
            "vmem=1gb",
            "max_memory='512mb'",
            "vmem asks for 1073741824 bytes on n1; a container may have 536870912 there",
        ),
        ("pmem=5gb", "", "pmem asks for 10737418240 bytes on n1; a container may have 8589934592 there"),
        ("pvmem=5gb", "", "pvmem asks for 10737418240 bytes on n1; a container may have 8589934592 there"),
    ],
)
def test_too_much_memory(resources: str, config: str, says: str) -> None:
    """The resource, what it comes to here, and what is allowed."""
    assert _refusal(config=f"[limits]\n{config}", job=_job(resources)) == ("memory-too-large", says)


def test_too_little_memory() -> None:
    """Less than the engine takes is the user's mistake and must not become the node's fault."""
    assert _refusal(job=_job("mem=0")) == (
        "memory-too-small",
        "mem asks for 0 bytes; the engine needs at least 6mb",
    )


def test_reserve_that_leaves_nothing_is_the_nodes_fault() -> None:
    """No user can mend it, and 0 bytes would mean no limit to the engine."""
    with pytest.raises(NodeFault) as caught:
        _plan(config="[limits]\nreserve_memory='8gb'", job=_job("nodes=1"))

    assert caught.value.sentence == (
        "limits.reserve_memory keeps 8589934592 of the 8589934592 bytes of n1; that leaves nothing for a job"
    )


@pytest.mark.parametrize(
    ("mode", "free", "cpu_millis", "cpuset"),
    [
        ("quota", (0, 1, 2, 3), 2000, None),
        ("none", (0, 1, 2, 3), None, None),
        ("cpuset", (3, 1, 2), None, "1,2"),
        ("cpuset", (3,), 2000, None),
        ("cpuset", None, 2000, None),
    ],
)
def test_cpus(mode: str, free: tuple[int, ...] | None, cpu_millis: int | None, cpuset: str | None) -> None:
    """CPUs of its own only if the site says so and enough are free; else CPU time."""
    limits = _plan(config=f"[limits]\ncpu='{mode}'", host=replace(HOST, free_cpus=free)).limits

    assert (limits.cpu_millis, limits.cpuset) == (cpu_millis, cpuset)


@pytest.mark.parametrize(
    ("text", "config", "resources", "shm"),
    [
        ("a", "", "mem=1gb", GIB // 2),
        ("a", "", "mem=32mb", 16 << 20),
        ("a", "max_shm='256mb'", "mem=1gb", 128 << 20),
        ("a", "shm='1gb'", "mem=2gb", GIB),
        ("--shm-size 1gb a", "", "mem=1gb", GIB),
        ("--shm-size 1gb a", "max_shm='1gb'", "nodes=1", GIB),
    ],
)
def test_shm(text: str, config: str, resources: str, shm: int) -> None:
    """The directive's, else the site's, else half the job's memory; never more than the job's memory."""
    assert _plan(text, f"[limits]\n{config}", _job(resources)).limits.shm_bytes == shm


_SIZES = st.none() | st.integers(0, 10**18 - 1)
_LIMIT = st.integers(6 << 20, 1 << 50) | st.just(0)


@given(
    st.fixed_dictionaries({key: _SIZES for key in ("mem", "vmem", "pmem", "pvmem")}),
    st.integers(1, 64),
    st.integers(0, 64),
    _LIMIT,
    st.integers(0, 4 << 30),
    st.sampled_from(["none", "as-vmem"]),
)
def test_no_job_gets_more_than_the_site_allows(
    asked: dict[str, int | None], here: int, elsewhere: int, max_memory: int, reserve: int, swap: str
) -> None:
    """For whatever is asked: a refusal, or limits the engine takes and the site allows."""
    resources = ",".join(f"{key}={value}" for key, value in asked.items() if value is not None)
    job = _job(resources, slots_here=here, slots_total=here + elsewhere)
    try:
        limits = _plan(
            config=f"[limits]\nmax_memory={max_memory}\nreserve_memory={reserve}\nswap='{swap}'", job=job
        ).limits
    except Refusal as error:
        assert error.code in ("memory-too-large", "memory-too-small")
        return

    if limits.memory_bytes is None:
        assert not resources
        assert not max_memory
        assert not reserve
        return
    assert 6 << 20 <= limits.memory_bytes <= min(HOST.memory_bytes - reserve, max_memory or HOST.memory_bytes)
    assert limits.memory_swap_bytes is not None
    assert limits.memory_bytes <= limits.memory_swap_bytes < 1 << 62
    assert limits.memory_bytes == limits.memory_swap_bytes or swap == "as-vmem"
    assert 0 < limits.shm_bytes <= limits.memory_bytes
    assert limits.cpu_millis == min(here, HOST.cpus) * 1000


# -- tmpfs, GPUs, environment -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("a", []),
        ("--read-only a", ["/tmp"]),
        ("--read-only --tmpfs /x/ a", ["/x", "/tmp"]),
        ("--read-only --tmpfs /tmp/ a", ["/tmp"]),
        ("--read-only -v $HOME/t:/tmp a", []),
    ],
)
def test_tmpfs(text: str, targets: list[str]) -> None:
    """A read-only container has a /tmp, unless the directive puts something there."""
    assert [one.target for one in _plan(text).tmpfs] == targets


def test_tmpfs_without_a_memory_limit() -> None:
    """Then the host's memory bounds it."""
    assert _refusal("--tmpfs /x:size=9gb a", job=_job("nodes=1")) == (
        "tmpfs-too-large",
        "job.sh:1:1: --tmpfs /x asks for 9663676416 bytes; it lives in the job's memory of 8589934592",
    )


@pytest.mark.parametrize(
    ("lines", "wanted", "gpus"),
    [
        (["node1-gpu1", "node1-gpu3"], "all", ("1", "3")),
        (["node1-gpu3", "node1-gpu1"], "1", ("1",)),
        (["other-gpu0", "node1-gpu2"], "all", ("2",)),
        (["node1.example.org-gpu10", "node1.example.org-gpu9"], "all", ("9", "10")),
    ],
)
def test_gpus(lines: list[str], wanted: str, gpus: tuple[str, ...]) -> None:
    """Those that mom's file names on this node, and no other job's."""
    job = _job("nodes=1:gpus=2", gpu_ids=gpus_on(lines, "node1"))
    assert _plan(f"--gpus {wanted} a", "[devices]\ngpus=true", job).gpus == gpus


@pytest.mark.parametrize("lines", [[], ["other-gpu0"], ["node1.a-gpu0", "node1.b-gpu1"], ["node1-gpux", "gpu1"]])
def test_gpus_that_are_not_named(lines: list[str]) -> None:
    """Device 0 may be another job's."""
    job = _job("nodes=1:gpus=2", gpu_ids=gpus_on(lines, "node1"))
    assert _refusal("--gpus all a", "[devices]\ngpus=true", job)[0] == "gpus-not-known"


@pytest.mark.parametrize(("value", "cpus"), [("singlejob", 8), ("SINGLETASK", 8), ("shared", 2), ("singleuser", 2)])
def test_a_node_of_ones_own(value: str, cpus: int) -> None:
    """Where no other job comes, the job has all CPUs and not those of its slots."""
    limits = _plan(job=_job(f"nodes=1:ppn=2,naccesspolicy={value}"), host=replace(HOST, cpus=8)).limits
    assert limits.cpu_millis == cpus * 1000


@pytest.mark.parametrize("wanted", ["3", "0", "²", "-1", "x"])
def test_gpus_beyond_the_grant(wanted: str) -> None:
    """More, none, or no number at all."""
    assert _refusal(f"--gpus={wanted} a", "[devices]\ngpus=true", _job("nodes=1:gpus=2", gpu_ids=("0", "1"))) == (
        "gpus-not-granted",
        f"job.sh:1:1: --gpus {wanted}: this job was granted 2",
    )


def test_environment_of_ones_own() -> None:
    """A value spelt out is the user's wish for their own processes; the list is about the host's."""
    plan = _plan("-e LD_LIBRARY_PATH=/x -e PATH=/bin -e OMP_NUM_THREADS a")

    assert plan.environment == (("LD_LIBRARY_PATH", "/x"), ("PATH", "/bin"), ("OMP_NUM_THREADS", None))
    assert plan.environment_deny == parse("").env.deny


# -- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "network"),
    [
        ({}, "first"),
        ({"user": "carol"}, "none"),
        ({"user": "bob"}, "bob"),
        ({"user": "bob", "queue": "long"}, "none"),
        ({"user": "carol", "groups": (77,)}, "by-group"),
    ],
)
def test_first_override_wins(changes: dict[str, Any], network: str) -> None:
    """An override counts if all its lists match, and then no other does."""
    config = (
        "[network]\ndefault='none'\n"
        "[[override]]\nqueues=['batch']\nusers=['bob']\n[override.network]\ndefault='bob'\n"
        "[[override]]\nusers=['alice']\n[override.network]\ndefault='first'\n"
        "[[override]]\nusers=['alice']\n[override.network]\ndefault='second'\n"
        "[[override]]\ngroups=['77']\n[override.network]\ndefault='by-group'\n"
    )

    assert _plan(config=config, job=_job(**changes)).network == network


def test_override_leaves_the_rest_alone() -> None:
    """Tables an override does not name are the site's."""
    config = parse("[limits]\npids=99\n[[override]]\n[override.env]\ndeny=['X']\n")

    found = effective(config, _job())

    assert (found.limits.pids, found.env.deny) == (99, ("X",))


# -- codes ------------------------------------------------------------------------------------------------------------


_MAKERS = ("Refusal", "_Unfit", "_Found", "Cause")


def _refusal_codes() -> set[str]:
    """Every code written out in a call of Refusal, or of what mounts, images and programs make refusals from."""
    codes = set()
    for path in (ROOT / "lib/pbsdock").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MAKERS:
                codes |= {one.value for one in node.args[:1] if isinstance(one, ast.Constant)}
    return {one for one in codes if isinstance(one, str)}


def test_every_code_is_in_the_manual() -> None:
    """Whoever finds a code in an event finds it in the manual."""
    manual = (ROOT / "docs/configuration.md").read_text()

    assert {one for one in _refusal_codes() if f"`{one}`" not in manual} == set()
