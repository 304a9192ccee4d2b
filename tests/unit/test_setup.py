"""The installer's parts that need no root: texts, plans, versions and their links; install.sh itself is in test_install."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pbsdock.admin.setup import environment, host, mom_config, plan
from pbsdock.admin.setup.command import main
from pbsdock.admin.setup.errors import SetupError
from pbsdock.admin.setup.places import Places, plain_path
from pbsdock.admin.setup.render import is_ours, stub
from pbsdock.admin.setup.source import Source
from pbsdock.admin.setup.versions import Version, Versions, in_use
from tests.support import checkout

PLACES = Places(mom_priv=Path("/m"), prefix=Path("/opt/p"))
BLOCK = (
    f"{mom_config.BEGIN}\n$job_starter /opt/p/hooks/run\n$node_check_script /opt/p/hooks/node-check\n"
    "$node_check_interval 1,jobstart,jobend\n$down_on_error true\n# end pbsdock\n"
)


# -- mom's configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", BLOCK),
        ("$loglevel 3\n", "$loglevel 3\n" + BLOCK),
        ("$loglevel 3", "$loglevel 3\n" + BLOCK),
        (BLOCK + "$loglevel 3\n", "$loglevel 3\n" + BLOCK),
        (BLOCK, BLOCK),
        ("$down_on_error false\n", "$down_on_error false\n" + BLOCK.replace("$down_on_error true\n", "")),
        (BLOCK.removesuffix("# end pbsdock\n"), BLOCK),  # cut off: what follows the mark is ours
        ("\udcff odd\n", "\udcff odd\n" + BLOCK),
    ],
)
def test_moms_configuration_is_joined(before: str, after: str) -> None:
    """One block at the end with what is missing; joining twice changes nothing."""
    text, missing = mom_config.joined(before, PLACES)

    assert text == after
    assert mom_config.joined(text, PLACES) == (text, missing)
    assert list(mom_config.wrong(text, PLACES)) == []


def test_nothing_is_added_where_all_is_there() -> None:
    """An admin may have moved the lines out of the block."""
    text = "".join(f"{line}\n" for line in mom_config.lines(PLACES))

    assert mom_config.joined(text, PLACES) == (text, [])


@pytest.mark.parametrize("before", ["", "$loglevel 3\n", "a\n\n# b\n"])
def test_moms_configuration_comes_back(before: str) -> None:
    """Without our lines it is what it was, also if one of them is outside the block."""
    joined = mom_config.joined(before, PLACES)[0]

    assert mom_config.without(joined, PLACES) == before
    assert mom_config.without(joined + "$job_starter /opt/p/hooks/run\n", PLACES) == before


@pytest.mark.parametrize(
    ("value", "true"),
    [
        ("true", True),
        ("T", True),
        ("yes", True),
        ("1", True),
        ("on", True),
        ("ON", True),
        ("false", False),
        ("once", False),
        ("0", False),
        ("", False),
    ],
)
def test_what_mom_takes_for_true(value: str, true: bool) -> None:
    """Every word that begins like one."""
    assert mom_config.is_true(value) is true


# -- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (
            (1, False, "cgroupfs", "", "p"),
            "this host: cgroup v1, no systemd, engine driver cgroupfs: jobs go below /p in the cgroup tree",
        ),
        (
            (2, True, "cgroupfs", "/a", "p"),
            "this host: cgroup v2, systemd, engine driver cgroupfs: jobs go below /a/p in the cgroup tree",
        ),
        (
            (2, True, "systemd", "", "p"),
            "this host: cgroup v2, systemd, engine driver systemd: each job gets a slice below p.slice",
        ),
        (
            (1, True, "systemd", "", "p"),
            "warning: this host: cgroup v1 with engine driver systemd is not supported; set native.cgroupdriver=cgroupfs",
        ),
        (
            (2, True, "", "", "p"),
            "this host: cgroup v2, systemd; the engine does not answer: its cgroup driver is found out when it does",
        ),
    ],
)
def test_the_host_is_told(facts: tuple[int, bool, str, str, str], says: str) -> None:
    """What is supported and what is not."""
    assert host.sentence(*facts) == says


def test_what_pip_says() -> None:
    """One sentence; what is not known is shown as it is."""
    odd = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n    six==1.17.0 from file:///w/six-1.17.0.whl (from -r lock (line 1)):\n"
    lacking = "ERROR: Could not find\nERROR: No matching distribution found for six==1.17.0\n"

    assert environment.says(odd, None).startswith("six-1.17.0.whl is not the file whose sha256 is in lock/run.txt")
    assert environment.says(lacking, Path("/w")).startswith(
        "/w has no six==1.17.0 for this Python; fill it with install.sh --fetch"
    )
    assert environment.says("a\nb\nc\nd\n", None).splitlines()[:3] == ["b", "c", "d"]


@pytest.mark.parametrize("text", ["opt", "/opt/a b", "/opt/ä", '/opt/"', "/opt/a\nb", ""])
def test_paths_that_cannot_be_written_into_a_script(text: str) -> None:
    """Refused before anything is looked at."""
    with pytest.raises(SetupError):
        plain_path(text)


def test_a_stub_is_ours_and_keeps_the_shell() -> None:
    """Its second line is the mark, its shell that of the hook."""
    text = stub("run", "#!/bin/bash -p\n# pbsdock hook: run\n", Path("/opt/p"))

    assert is_ours(text)
    assert text.startswith("#!/bin/bash -p\n")
    assert not is_ours("#!/bin/sh\necho '# pbsdock hook:'\n")


def test_arguments_that_make_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence, and the usage where the name is unknown."""
    assert main(["/src", "--mom-priv"]) == main(["/src", "--frobnicate"]) == main(["/src"]) == 1
    said = capsys.readouterr().err.splitlines()

    assert said[0] == "install.sh: --mom-priv needs a value"
    assert "install.sh: unknown argument --frobnicate" in said
    assert said[-1] == "install.sh: --mom-priv is missing, or --slurm"


def test_the_identity_follows_from_what_is_installed(tmp_path: Path) -> None:
    """Another version, a changed source, another place: another name. A compiled file: the same."""
    there = Source(checkout.newer(tmp_path))
    python = Path("/usr/bin/python3")
    first = there.identity(PLACES, "i", python)
    cache = there.package / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "x.pyc").touch()

    assert first.startswith("0.1.1-")
    assert there.identity(PLACES, "i", python) == first
    assert there.identity(PLACES, "j", python) != first
    assert there.identity(Places(mom_priv=Path("/n"), prefix=Path("/opt/p")), "i", python) != first
    (there.directory / "hooks/run").write_text("#!/bin/sh\n")
    assert there.identity(PLACES, "i", python) != first


# -- the plan ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A mom_priv that is there."""
    made = Places(mom_priv=tmp_path / "mom_priv", prefix=tmp_path / "opt", root=tmp_path)
    made.mom_priv.mkdir()
    return made


def test_nothing_through_the_link_before_it_is_exchanged(places: Places) -> None:
    """A version is whole before it is put in force; hooks and mom's lines, which go through the link, come after."""
    (places.mom_priv / "epilogue").write_text("#!/bin/sh\n")
    kinds = [type(one) for one in plan.make(places, "1-a", "i")]

    assert kinds == [
        plan.MakeVersion,
        plan.WriteConfig,
        plan.KeepSiteHook,
        plan.SwitchVersion,
        plan.PutHooks,
        plan.ExtendMomConfig,
        plan.RestartAgent,
        plan.PruneVersions,
    ]


def test_a_hook_that_cannot_be_kept_is_refused_first(places: Places) -> None:
    """While the plan is made: nothing was changed."""
    (places.mom_priv / "prologue").mkdir()
    with pytest.raises(SetupError, match="is not a regular file; mom would not run it, move it away"):
        plan.make(places, "1-a", "i")
    (places.mom_priv / "prologue").rmdir()
    (places.mom_priv / "prologue").write_text("#!/bin/sh\n")
    places.site_hooks("prologue").mkdir()
    (places.site_hooks("prologue") / "50-site").touch()
    with pytest.raises(SetupError, match="are the site's; rename one of them"):
        plan.make(places, "1-a", "i")


# -- versions ---------------------------------------------------------------------------------------------------------


def _make(versions: Versions, identity: str) -> Version:
    one = versions.fresh(identity)
    one.home.mkdir(parents=True)
    (one.home / "paths.json").write_text(identity)
    one.finish(identity, "1", ["paths.json"])
    return one


def test_versions_take_each_others_place(tmp_path: Path) -> None:
    """The one before is kept, older ones go; one made again does not push the one before out."""
    versions = Versions(tmp_path)
    one, two, three = (_make(versions, name) for name in ("1-a", "2-b", "3-c"))
    assert (versions.current(), versions.previous()) == (None, None)
    for each in (one, two, three):
        versions.exchange(each)
    assert (versions.current(), versions.previous()) == (three, two)
    assert os.readlink(versions.link) == "versions/3-c"

    again = _make(versions, "3-c")
    versions.exchange(again)
    assert again.name == "3-c.1"
    assert (versions.current(), versions.previous()) == (again, two)
    assert versions.whole("3-c") == [again, three]
    assert versions.prune() == []
    assert versions.all() == [two, again]
    versions.exchange(two)
    assert (versions.current(), versions.previous()) == (two, again)


def test_the_link_is_there_at_every_moment(tmp_path: Path) -> None:
    """Whoever looks while it is exchanged a thousand times finds the one or the other."""
    versions = Versions(tmp_path)
    both = [_make(versions, name) for name in ("1-a", "2-b")]
    versions.exchange(both[0])
    over = threading.Event()
    seen: set[str] = set()

    def look() -> None:
        while not over.is_set():
            try:
                seen.add((versions.link / "paths.json").read_text())
            except OSError as error:
                seen.add(str(error))

    looking = threading.Thread(target=look)
    looking.start()
    for number in range(1000):
        versions.exchange(both[number % 2])
    over.set()
    looking.join()

    assert seen == {"1-a", "2-b"}


def test_what_was_left_half_made_is_made_again(tmp_path: Path) -> None:
    """A directory without a record is no version."""
    versions = Versions(tmp_path)
    half = versions.directory / "1-a"
    (half / "venv").mkdir(parents=True)

    one = versions.fresh("1-a")

    assert one.home == half
    assert not half.exists()


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    """By its hash, also if it is gone."""
    one = _make(Versions(tmp_path), "1-a")
    assert one.changed() == []
    (one.home / "paths.json").write_text("other")
    assert one.changed() == [f"{one.home}/paths.json is not as it was installed; run install.sh again"]
    (one.home / "version.json").unlink()
    assert one.changed() == [f"{one.home} is not whole; run install.sh again"]


def test_a_link_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    """A directory named current, in a prefix that is shared."""
    versions = Versions(tmp_path)
    one = _make(versions, "1-a")
    (tmp_path / "current").mkdir()

    with pytest.raises(SetupError, match="is not a link of pbsdock's"):
        versions.exchange(one)


def test_in_use(tmp_path: Path) -> None:
    """By command line, or by what is open; not by a name that only begins alike."""
    named, opened, idle = (tmp_path / name for name in ("named", "opened", "named-not"))
    for one in (named, opened, idle):
        one.mkdir()
    (opened / "x").touch()
    code = "import sys; print(1, flush=True); input()"
    with (
        (opened / "x").open() as file,
        subprocess.Popen(
            [sys.executable, "-c", code, f"{named}/paths.json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[file.fileno()],
        ) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        assert in_use([named, opened, idle]) == {named, opened}
        process.kill()
    assert in_use([named]) == set()


def test_one_installation_at_a_time(tmp_path: Path) -> None:
    """The lock is the directory's, and is there again when the first is over."""
    versions = Versions(tmp_path)
    with versions.locked():
        fd = os.open(versions.directory, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
        with pytest.raises(SetupError, match="another installation into .* is under way"), versions.locked():
            pass
    with versions.locked():
        pass
