"""What of an image counts for its jobs: variables, users and groups, shells, local time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pbsdock.agent.image_profile import ImageProfiles
from pbsdock.core.facts import ImageTraits
from pbsdock.core.plan import Plan
from pbsdock.engine import accounts
from pbsdock.engine import spec as container
from pbsdock.engine.base import EngineError, ImageFile
from pbsdock.host import local_time
from tests.unit.test_core import CALL, _plan, _spec

BERLIN = b"TZif2" + b"\0" * 40 + b"\nCET-1CEST,M3.5.0,M10.5.0/3\n"
UTC = b"TZif2" + b"\0" * 40 + b"\nUTC0\n"


def _environment(plan: Plan, image: ImageTraits, **job: str) -> dict[str, str]:
    call = replace(CALL, environment=tuple(job.items()))
    return dict(pair.split("=", 1) for pair in container.environment(plan, call, image))


OF_IMAGE = ImageTraits(
    variables=("JAVA_HOME", "LC_ALL", "HOME", "USER", "LOGNAME", "TMPDIR", "PBS_X", "CONDA_PREFIX", "TERM"),
    shells=("/bin/bash", "/bin/sh"),
)


def test_the_images_variables_win() -> None:
    """Over what qsub -V brings along; who and where the job is stays the job's."""
    theirs = {name: "job" for name in OF_IMAGE.variables}

    assert _environment(_plan("a"), OF_IMAGE, **theirs, MINE="1") == {
        **{name: "job" for name in ("HOME", "USER", "LOGNAME", "TMPDIR", "PBS_X", "TERM")},
        "MINE": "1",
    }


def test_env_takes_the_jobs_own() -> None:
    """--env NAME, --env NAME=VALUE and the site's list choose otherwise."""
    theirs = {"JAVA_HOME": "job", "LC_ALL": "job", "CONDA_PREFIX": "job"}
    plan = replace(_plan("-e JAVA_HOME -e LC_ALL=C a"), environment_keep=("CONDA_*",))

    assert _environment(plan, OF_IMAGE, **theirs) == {"JAVA_HOME": "job", "LC_ALL": "C", "CONDA_PREFIX": "job"}


def test_shell_is_one_the_image_has() -> None:
    """Also where qsub -S chose one, which the image then has; the image's own SHELL is its own."""
    known = ImageTraits(shells=("/bin/bash", "/bin/sh"))
    chosen = replace(CALL, argv=("/opt/fish",), environment=(("SHELL", "/opt/fish"),), shell_chosen=True)

    assert _environment(_plan("a"), known, SHELL="/bin/zsh") == {"SHELL": "/bin/bash"}
    assert _environment(_plan("a"), known, SHELL="/bin/sh") == {"SHELL": "/bin/sh"}
    assert container.environment(_plan("a"), chosen, known) == ["SHELL=/opt/fish"]
    assert _environment(_plan("a"), replace(known, variables=("SHELL",)), SHELL="/bin/zsh") == {}
    assert _environment(_plan("a"), ImageTraits(), SHELL="/bin/zsh") == {"SHELL": "/bin/zsh"}


def test_a_login_shell_the_image_lacks() -> None:
    """The one that $SHELL and the passwd entry name takes its place."""
    call = replace(CALL, argv=("/bin/zsh",), shell_chosen=False)
    line = container.command(call, {}, "img", ImageTraits(shells=("/bin/bash",)))[2]

    assert '|| exec /bin/bash "$@"; ' in line


def test_time_zone_is_set_unless_somebody_did() -> None:
    """By the job, by the image, or with --env."""
    image = ImageTraits(time_zone="Europe/Berlin")

    assert _environment(_plan("a"), image) == {"TZ": "Europe/Berlin"}
    assert _environment(_plan("a"), image, TZ="UTC") == {"TZ": "UTC"}
    assert _environment(_plan("a"), replace(image, variables=("TZ",))) == {}
    assert _environment(_plan("-e TZ=Asia/Tokyo a"), image) == {"TZ": "Asia/Tokyo"}


NODE = "node1.example.org"


@pytest.mark.parametrize(("network", "name"), [("container:x", ""), ("host", NODE), ("none", NODE)])
def test_hostname(network: str, name: str) -> None:
    """The node's, where another container's does not come with its network."""
    plan = replace(_plan("a"), network=network)
    made = container.for_job(
        plan,
        CALL,
        bound=[],
        rlimits={},
        made=container.Made(image_id="sha256:1", own_files=[], cgroup_parent="", labels={}, hostname=NODE),
    )
    assert made.hostname == name


# -- passwd and group -------------------------------------------------------------------------------------------

PASSWD = b"""root:*:0:0:Image root:/root:/bin/ash
toor::0:0::/root:/bin/sh
nobody:x:65534:65534:n:/:/bin/false
postgres:hash:70:70:DB:/var/lib/pg:/bin/sh
alice:x:70123:1:other:/x:/bin/sh
jovyan:x:1000:100::/home/jovyan:/bin/bash
twice:x:71:71::/:/a
twice:x:72:72::/:/b
root:x:5:5::/:/bin/sh
+nis::::::
bad line
a:b:c:d:e:f:g
big:x:4294967295:1::/:/x
esc:x:73:73:\x1b[31m:/:/x
neg:x:-1:1::/:/x
"""


def _plan_of(uid: int, gid: int, groups: tuple[int, ...] = ()) -> Plan:
    return replace(_plan("a"), user="alice", uid=uid, gid=gid, groups=groups, home="/home/alice")


def test_passwd_keeps_the_images_names() -> None:
    """The job's user wins by name and by number, root is root alone, and what is not well-formed is left out."""
    lines = accounts.passwd(_plan_of(1000, 1000), "/bin/bash", PASSWD).splitlines()

    assert lines == [
        "root:x:0:0:Image root:/root:/bin/ash",
        "nobody:x:65534:65534:n:/:/bin/false",
        "postgres:x:70:70:DB:/var/lib/pg:/bin/sh",
        "twice:x:71:71::/:/a",
        "alice:x:1000:1000:alice:/home/alice:/bin/bash",
    ]


@pytest.mark.parametrize("image", [None, b"", b"\xff\xfe\0", b"root:x:7:7::/:/bin/sh\nnobody:x:0:0::/:/x\n"])
def test_passwd_without_a_usable_file(image: bytes | None) -> None:
    """root, nobody and the job's user are always there, and are who they are."""
    assert accounts.passwd(_plan_of(1000, 100), "/bin/sh", image).splitlines() == [
        "root:x:0:0:root:/root:/bin/sh",
        "nobody:x:65534:65534:nobody:/nonexistent:/bin/false",
        "alice:x:1000:100:alice:/home/alice:/bin/sh",
    ]


def test_passwd_has_an_end() -> None:
    """An image may be anybody's."""
    many = b"".join(b"u%d:x:%d:1::/:/x\n" % (number, number + 2000) for number in range(10_000))

    assert len(accounts.passwd(_plan_of(1000, 100), "/bin/sh", many).splitlines()) < 5000


GROUP = b"""root:x:0:evil
postgres:x:70:alice,bob
users:x:100:
physics:x:999:
docker:x:2001:alice
nogroup:x:65534:
video:x:2002:
"""


def test_group_keeps_the_images_names() -> None:
    """The owner's groups win by name and number, and nobody is made a member of the image's."""
    plan = _plan_of(1000, 100, (2001, 2002, 3000))
    names = {100: "staff", 2001: "physics"}

    assert accounts.group(plan, names, GROUP).splitlines() == [
        "root:x:0:",
        "postgres:x:70:bob",
        "nogroup:x:65534:",
        "staff:x:100:",
        "physics:x:2001:alice",
        "video:x:2002:alice",
        "g3000:x:3000:alice",
    ]
    assert accounts.group(plan, names).splitlines()[:2] == ["root:x:0:", "nogroup:x:65534:"]


# -- local time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (None, "UTC0"),
        (b"", "UTC0"),
        (BERLIN, "CET-1CEST,M3.5.0,M10.5.0/3"),
        (UTC, "UTC0"),
        (b"TZif2\n<+1245>-12:45\n", "<+1245>-12:45"),
        (b"TZif\0old\nCET-1\n", ""),
        (b"garbage\nCET-1\n", ""),
        (b"TZif2\nCET-1\x1b[31m\n", ""),
        (b"TZif2\n" + b"x" * 200 + b"\n", ""),
    ],
)
def test_rule_of_a_zone_file(data: bytes | None, rule: str) -> None:
    """Its last line, as tzfile(5) says, and nothing that could be something else."""
    assert local_time.rule_of(data) == rule


def test_the_hosts_zone(tmp_path: Path) -> None:
    """Its name, where its file is one of the database's; its rule in any case."""
    zones = tmp_path / "usr/share/zoneinfo/Europe"
    zones.mkdir(parents=True)
    (zones / "Berlin").write_bytes(BERLIN)
    (tmp_path / "link").symlink_to(zones / "Berlin")
    (tmp_path / "copy").write_bytes(BERLIN)

    found = [local_time.read(str(tmp_path / name)) for name in ("link", "copy", "none")]

    assert [(one.zone, one.rule) for one in found] == [
        ("Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3"),
        ("", "CET-1CEST,M3.5.0,M10.5.0/3"),
        ("", "UTC0"),
    ]


class FakeEngine:
    """An image's files without an engine."""

    def __init__(self, files: dict[str, ImageFile], broken: bool = False) -> None:
        self.files = files
        self.broken = broken
        self.asked: list[list[str]] = []

    def read_image(
        self, image_id: str, wanted: dict[str, int], labels: dict[str, str]
    ) -> tuple[frozenset[str], dict[str, ImageFile]]:
        self.asked.append(sorted(wanted))
        if self.broken:
            raise EngineError(500, "no")
        return frozenset({"PATH"}), {path: file for path, file in self.files.items() if path in wanted}


PROGRAM = ImageFile(is_program=True, content=None)


def _profiles(engine: FakeEngine) -> ImageProfiles:
    return ImageProfiles(engine, {}, lambda *_, **__: None)  # type: ignore[arg-type]  # the one call that is made


@pytest.mark.parametrize(
    ("files", "host", "expected"),
    [
        (
            {},
            local_time.LocalTime(zone="Europe/Berlin", rule="CET-1CEST,M3.5.0,M10.5.0/3"),
            "CET-1CEST,M3.5.0,M10.5.0/3",
        ),
        (
            {"/usr/share/zoneinfo/Europe/Berlin": ImageFile(is_program=False, content=None)},
            local_time.LocalTime(zone="Europe/Berlin", rule="CET-1CEST,M3.5.0,M10.5.0/3"),
            "Europe/Berlin",
        ),
        (
            {"/etc/localtime": ImageFile(is_program=False, content=BERLIN)},
            local_time.LocalTime(zone="Europe/Berlin", rule="CET-1CEST,M3.5.0,M10.5.0/3"),
            "",
        ),
        ({}, local_time.LocalTime(zone="Etc/UTC", rule="UTC0"), ""),
        (
            {"/etc/localtime": ImageFile(is_program=False, content=BERLIN)},
            local_time.LocalTime(zone="", rule="UTC0"),
            "UTC0",
        ),
    ],
)
def test_time_zone_of_an_image(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, ImageFile], host: local_time.LocalTime, expected: str
) -> None:
    """The zone's name where the image knows it, else its rule; nothing where local time is the same already."""
    monkeypatch.setattr(local_time, "read", lambda: host)

    assert _profiles(FakeEngine(files)).of("sha256:1", "/bin/sh").traits.time_zone == expected


def test_an_image_is_looked_into_once() -> None:
    """Whatever user comes; only a shell nobody asked for yet is looked up."""
    engine = FakeEngine({"/bin/sh": PROGRAM, "/usr/bin/zsh": PROGRAM})
    profiles = _profiles(engine)

    first = profiles.of("sha256:1", "/bin/bash").traits.shells
    again = profiles.of("sha256:1", "/bin/bash").traits.shells
    other = profiles.of("sha256:1", "/bin/zsh").traits.shells

    assert (first, again, other) == (("/bin/sh",), ("/bin/sh",), ("/usr/bin/zsh", "/bin/sh"))
    assert engine.asked[1:] == [["/bin/zsh", "/usr/bin/zsh"]]


def test_an_image_that_cannot_be_looked_into() -> None:
    """Has nothing of its own, and is tried again."""
    engine = FakeEngine({}, broken=True)
    profiles = _profiles(engine)

    assert profiles.of("sha256:1", "/bin/sh").passwd is None
    assert profiles.of("sha256:1", "/bin/sh").traits.shell == "/bin/sh"
    assert len(engine.asked) == 2


def test_the_spec_says_nothing_of_it_by_default() -> None:
    """An engine's own name for the container."""
    assert _spec("a").hostname == ""
