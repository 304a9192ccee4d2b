"""install.sh for real, into scratch directories: one installation that every test looks at or works on a copy of."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support import checkout, quick_setup
from tests.support.agents import running

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = "$pbsserver server\n$loglevel 3\n"
SITE_PROLOGUE = '#!/bin/sh\necho "site prologue of $1"\n'
BLOCK = """\
# begin pbsdock (written by install.sh, removed by install.sh --uninstall)
$job_starter {prefix}/hooks/run
$node_check_script {prefix}/hooks/node-check
$node_check_interval 1,jobstart,jobend
$down_on_error true
# end pbsdock
"""

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="hooks must belong to root, so installing needs root")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """A mom_priv and a root to install below."""

    base: Path
    checkout: Path = REPOSITORY
    packages: Path | None = None  # an installed version whose packages are copied; else they are fetched and built

    @property
    def mom_priv(self) -> Path:
        """Mom's private directory."""
        return self.base / "mom_priv"

    @property
    def config(self) -> Path:
        """Mom's configuration."""
        return self.mom_priv / "config"

    @property
    def root(self) -> Path:
        """The relocated instance."""
        return self.base / "root"

    @property
    def prefix(self) -> Path:
        """Where the program goes."""
        return self.root / "opt/pbsdock"

    @property
    def home(self) -> Path:
        """The version in force, by its own name."""
        return (self.prefix / "current").resolve()

    def install(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run install.sh with *options*."""
        install = [str(self.checkout / "install.sh")]
        if self.packages is not None:
            install = quick_setup.command(self.checkout, self.packages)
        return subprocess.run(
            [*install, "--mom-priv", str(self.mom_priv), "--root", str(self.root), *options],
            env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def refusal(self, *options: str) -> str:
        """Run install.sh, which must fail, and return what it says."""
        done = self.install(*options)
        assert done.returncode == 1
        return done.stderr

    def tree(self) -> dict[str, tuple[int, int, str]]:
        """Every file: its mode, its inode's change time, what is in it (links: where to)."""
        return {
            str(path.relative_to(self.base)): (
                status.st_mode,
                0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns,
                os.readlink(path) if path.is_symlink() else "" if path.is_dir() else str(status.st_size),
            )
            for path in sorted(self.base.rglob("*"))
            if "__pycache__" not in path.parts
            for status in [path.lstat()]
        }


def _new(config: str = CONFIG) -> Scratch:
    # Not below pytest's own directory, which nobody but root can enter: the run hook is the user's.
    made = Scratch(base=Path(tempfile.mkdtemp(prefix="pbsdock-install.")))
    made.base.chmod(0o755)
    (made.mom_priv / "jobs").mkdir(parents=True)
    made.config.write_text(config)
    return made


def _remove(made: Scratch) -> None:
    """With the agent that a hook, or an installation where one ran, has started."""
    for pid in running(f"{made.base}/"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(made.base, ignore_errors=True)


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    """A node where nothing is installed."""
    made = _new()
    yield made
    _remove(made)


@pytest.fixture(scope="module")
def wheels() -> Iterator[Path]:
    """What docs/install.md says to take to a host without a package index."""
    made = Path(tempfile.mkdtemp(prefix="pbsdock-wheels."))
    done = subprocess.run(
        [str(REPOSITORY / "install.sh"), "--fetch", str(made)], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith(f" packages into {made}; install with --wheels {made}\n")
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def installed_once(wheels: Path) -> Iterator[tuple[Scratch, str]]:
    """A node with a prologue of its own where pbsdock was installed, offline; and what the installer said."""
    made = _new()
    try:
        (made.mom_priv / "prologue").write_text(SITE_PROLOGUE)
        (made.mom_priv / "prologue").chmod(0o700)
        done = made.install("--wheels", str(wheels))
        assert done.returncode == 0, done.stderr
        yield made, done.stdout
    finally:
        _remove(made)


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of a later version."""
    return checkout.newer(tmp_path_factory.mktemp("newer"))


@pytest.fixture
def installed(installed_once: tuple[Scratch, str]) -> Scratch:
    """The installed node, for tests that put back what they change."""
    return installed_once[0]


# -- what is there afterwards -------------------------------------------------------------------------------------


def test_it_says_what_it_did(installed_once: tuple[Scratch, str]) -> None:
    """Kept hooks, mom's new lines and the next step are printed."""
    node, said = installed_once

    host, *lines = said.splitlines()
    assert re.fullmatch(r"(warning: )?this host: cgroup v[12], .*", host)  # whatever it is: tests/vm knows one
    assert lines == [
        f"wrote the commented configuration {node.root}/etc/pbsdock/pbsdock.toml",
        f"kept the site's own prologue as {node.mom_priv}/site-prologue.d/50-site",
        f"added to {node.config} (the old one is {node.config}.before-pbsdock):",
        f"    $job_starter {node.prefix}/hooks/run",
        f"    $node_check_script {node.prefix}/hooks/node-check",
        "    $node_check_interval 1,jobstart,jobend",
        "    $down_on_error true",
        "restart pbs_mom, or send it SIGHUP, to let these lines count",
        f"an instance below {node.root}: the first hook that needs the agent starts it",
        f"installed pbsdock 0.1.0 into {node.mom_priv}",
    ]


def test_the_check_is_content(installed: Scratch) -> None:
    """A fresh installation passes its own check."""
    done = installed.install("--check")

    assert (done.returncode, done.stderr) == (0, "")
    assert _told(done.stdout) == [
        f"version {installed.home.name} is in force; there is no previous one",
        f"pbsdock is installed correctly in {installed.mom_priv}",
    ]


def _told(text: str) -> list[str]:
    """Less the note on this host's Torque."""
    return [line for line in text.splitlines() if not line.startswith("note: pbs_track ")]


def test_the_check_tells_what_is_lost_without_pbs_track(installed: Scratch, tmp_path: Path) -> None:
    """With a cure; nothing is wrong with the installation by that. Where it is there is no note."""
    config = installed.root / "etc/pbsdock/pbsdock.toml"
    good = config.read_text()
    config.write_text(f'[torque]\nclient_dir = "{tmp_path}"\n')
    try:
        without = installed.install("--check")
        (tmp_path / "pbs_track").symlink_to("/bin/true")
        beside = installed.install("--check")
    finally:
        config.write_text(good)

    assert (without.returncode, without.stderr) == (0, "")
    assert without.stdout.splitlines()[1:] == [
        f"note: pbs_track is not in torque.client_dir, {tmp_path}: Torque counts no CPU time and memory of containers as"
        " the job's, and suspending a job does not stop its container; install Torque's client programs, or name their"
        " directory in torque.client_dir",
        f"pbsdock is installed correctly in {installed.mom_priv}",
    ]
    assert beside.stdout.splitlines()[1:] == [f"pbsdock is installed correctly in {installed.mom_priv}"]


def test_twice_changes_nothing(installed: Scratch) -> None:
    """The second run says so and touches no file."""
    before = installed.tree()

    done = installed.install()

    assert (done.returncode, done.stdout) == (
        0,
        f"nothing to do: this version is installed in {installed.mom_priv} already\n",
    )
    assert installed.tree() == before


def test_hooks_are_roots_and_bake_their_interpreter(installed: Scratch) -> None:
    """root:root 0755, no mark left, and the only interpreter named is the instance's own."""
    places = {name: installed.mom_priv for name in ("prologue", "epilogue", "prologue.parallel", "epilogue.parallel")}
    places |= {name: installed.prefix / "hooks" for name in ("run", "node-check")}

    for name, place in places.items():
        hook, called = installed.home / "hooks" / name, place / name
        for one in (hook, called, installed.home / "hooks/ask"):
            status = one.lstat()
            assert (stat.S_ISREG(status.st_mode), status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (
                True,
                0,
                0,
                0o755,
            )
        text = hook.read_text()
        assert not re.findall(r"@[A-Z_]+@", text), hook
        assert set(re.findall(r"\S*python3\"", text)) == {f'"{installed.home}/venv/bin/python3"'}, hook
        shebang, _about, body, end = called.read_text().split("\n")
        assert (shebang, body, end) == (text.split("\n")[0], f'. "{installed.prefix}/current/hooks/{name}"', "")


def test_the_interpreter_is_the_systems(installed: Scratch) -> None:
    """The virtual environment hangs on /usr/bin/python3, not on whatever was first on the admin's PATH."""
    home = (installed.home / "venv/pyvenv.cfg").read_text().splitlines()[0]

    assert home == "home = /usr/bin"


def test_the_instance_is_complete_and_its_own(installed: Scratch) -> None:
    """Every place is below the root, and the instance has a name that no other has."""
    places = json.loads((installed.home / "paths.json").read_text())

    assert re.fullmatch(r"pbsdock-[0-9a-f]{8}", places["instance"])
    assert (installed.root / "etc/pbsdock/instance").read_text() == places["instance"] + "\n"
    assert places == {
        "python": f"{installed.home}/venv/bin/python3",
        "lib": str(next(installed.home.glob("venv/lib/python3*/site-packages"))),
        "run_dir": f"{installed.root}/run/pbsdock",
        "state_dir": f"{installed.root}/var/lib/pbsdock",
        "log_dir": f"{installed.root}/var/log/pbsdock",
        "config": f"{installed.root}/etc/pbsdock/pbsdock.toml",
        "mom_priv": str(installed.mom_priv),
        "instance": places["instance"],
        "prefix": str(installed.prefix),
        "home": str(installed.home),
    }
    assert stat.S_IMODE((installed.root / "var/lib/pbsdock").stat().st_mode) == 0o700


def test_moms_configuration_is_kept_and_extended(installed: Scratch) -> None:
    """The site's lines stay, ours come in one marked block, the old file is beside it."""
    assert installed.config.read_text() == CONFIG + BLOCK.format(prefix=installed.prefix)
    assert Path(f"{installed.config}.before-pbsdock").read_text() == CONFIG


def test_the_sites_prologue_still_runs(installed: Scratch) -> None:
    """The chained hook says what it always said."""
    done = subprocess.run(
        [str(installed.mom_priv / "prologue"), "7.vm", *"abcdef", "/none.SC"],
        capture_output=True,
        text=True,
        env={"PATH": "/bin:/usr/bin"},
        check=False,
        timeout=30,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "site prologue of 7.vm\n", "")


def test_nothing_stands_where_qsub_could_name_it(installed: Scratch) -> None:
    """``qsub -T x`` runs ``prologue.x``: mom would fail on a directory of such a name and report the node."""
    names = {path.name for kind in ("prologue", "epilogue") for path in installed.mom_priv.glob(f"{kind}.*")}

    assert names == {"prologue.parallel", "epilogue.parallel"}


def test_the_run_hook_works_for_an_ordinary_user(installed: Scratch) -> None:
    """A job without a directive is started as if we were not there."""
    done = subprocess.run(
        [
            "/usr/bin/setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            str(installed.prefix / "hooks/run"),
            "/bin/sh",
            "-c",
            "id -u; exit 7",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd="/",
        env={"PATH": "/bin:/usr/bin", "PBS_JOBID": "7.vm"},
    )

    assert (done.returncode, done.stdout, done.stderr) == (7, "65534\n", "")


def test_the_command_finds_its_instance(installed: Scratch) -> None:
    """``pbsdock`` is bound to the instance's configuration, whatever the caller's environment says."""
    config = installed.root / "etc/pbsdock/pbsdock.toml"
    text = config.read_text()
    config.write_text("[engine]\nsockte = 1\n")
    try:
        done = subprocess.run(
            [str(installed.prefix / "bin/pbsdock"), "config"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env={"PYTHONPATH": "/nonexistent", "PYTHONHOME": "/nonexistent"},
        )
    finally:
        config.write_text(text)

    assert done.returncode == 2
    assert "'engine.sockte'" in done.stderr


@pytest.mark.parametrize("name", ["pbsdock-init", "pbsdock-run", "pbsdock-docker"])
def test_the_programs_in_c_are_roots_static_and_listed(installed: Scratch, name: str) -> None:
    """They run in every image, nobody but root can exchange them, and their hashes are with those of the package's files."""
    library = next(installed.home.glob("venv/lib/python3*/site-packages"))
    program = library / "pbsdock/init" / name
    status = program.lstat()

    assert (stat.S_ISREG(status.st_mode), status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (
        True,
        0,
        0,
        0o755,
    )
    assert b"/ld-" not in program.read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(program.read_bytes()).digest()).decode().rstrip("=")
    rows = next(library.glob("pbsdock-*.dist-info/RECORD")).read_text().splitlines()
    assert f"pbsdock/init/{name},sha256={digest},{status.st_size}" in rows


# -- the check ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "mode", "says"),
    [
        (
            "mom_priv/prologue",
            0o775,
            ["wrong: {0} is writable by others (mode 0775); use chmod go-w", "wrong: {0} has mode 775; it must be 755"],
        ),
        ("mom_priv/epilogue", 0o700, ["wrong: {0} has mode 700; it must be 755"]),
        ("mom_priv/site-prologue.d/50-site", 0o722, ["wrong: {0} is writable by others (mode 0722); use chmod go-w"]),
        (
            "root/etc/pbsdock/pbsdock.toml",
            0o666,
            [
                "wrong: {0} is writable by others (mode 0666); use chmod go-w",
                "wrong: {0}: {0} is writable by others (mode 0666); use chmod go-w",
            ],
        ),
        ("root/var/lib/pbsdock", 0o755, ["wrong: {0} has mode 755; it must be 700"]),
        (
            "root/opt/pbsdock/current/venv/bin/jp.py",
            0o777,
            ["wrong: {0} can be changed by others than root; run install.sh again"],
        ),
    ],
)
def test_the_check_finds_a_wrong_mode(installed: Scratch, what: str, mode: int, says: list[str]) -> None:
    """Whoever else could change what root runs is named."""
    path = (installed.base / what).resolve()
    before = stat.S_IMODE(path.stat().st_mode)
    path.chmod(mode)
    try:
        done = installed.install("--check")
    finally:
        path.chmod(before)

    assert done.returncode == 1
    assert done.stdout.splitlines()[1:] == [one.format(path) for one in says]


@pytest.mark.parametrize("name", ["pbsdock-init", "pbsdock-run", "pbsdock-docker"])
def test_the_check_finds_another_program_in_c(installed: Scratch, name: str) -> None:
    """One byte of it is enough; without the right to execute it nothing would start."""
    program = next(installed.home.glob("venv/lib/python3*/site-packages")) / "pbsdock/init" / name
    before = program.read_bytes()
    program.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    program.chmod(0o644)
    try:
        done = installed.install("--check")
    finally:
        program.write_bytes(before)
        program.chmod(0o755)

    assert done.stdout.splitlines()[1:] == [
        f"wrong: {program} has mode 644; it must be 755",
        f"wrong: packages files: {program} of pbsdock 0.1.0 is not as it was installed; run install.sh again",
    ]


def test_the_check_finds_a_directory_above_that_others_can_write(installed: Scratch) -> None:
    """A hook is no safer than the directories above it."""
    installed.mom_priv.chmod(0o777)
    try:
        done = installed.install("--check")
    finally:
        installed.mom_priv.chmod(0o755)

    assert done.returncode == 1
    assert set(done.stdout.splitlines()[1:]) == {
        f"wrong: {installed.mom_priv} is writable by others (mode 0777); use chmod go-w"
    }


def test_the_check_finds_anothers_hook(installed: Scratch) -> None:
    """A hook that belongs to a user is told, whatever its mode."""
    hook = installed.prefix / "hooks/run"
    os.chown(hook, 65534, 0)
    try:
        done = installed.install("--check")
    finally:
        os.chown(hook, 0, 0)

    assert done.stdout.splitlines()[1:] == [f"wrong: {hook} belongs to uid 65534; it must belong to root"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("$job_starter {0}/hooks/run\n", "", "wrong: {1} lacks the line $job_starter {0}/hooks/run"),
        ("$down_on_error true\n", "", "wrong: {1} lacks the line $down_on_error true"),
        (
            "$down_on_error true\n",
            "$down_on_error true\n$job_starter_run_privileged on\n",
            "wrong: {1} has $job_starter_run_privileged true: every user can run code as root; remove that line",
        ),
    ],
)
def test_the_check_reads_moms_configuration(installed: Scratch, old: str, new: str, says: str) -> None:
    """A line that went missing, or a dangerous one that came, is told."""
    before = installed.config.read_text()
    installed.config.write_text(before.replace(old.format(installed.prefix), new))
    try:
        done = installed.install("--check")
    finally:
        installed.config.write_text(before)

    assert (done.returncode, done.stdout.splitlines()[1:]) == (1, [says.format(installed.prefix, installed.config)])


def test_a_damaged_installation_is_repaired(installed: Scratch) -> None:
    """Running the installer again brings back a hook that was changed; the site's hook is not chained twice."""
    hook = installed.mom_priv / "prologue"
    good = hook.read_text()
    hook.chmod(0o775)

    done = installed.install()

    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(hook.stat().st_mode) == 0o755
    assert hook.read_text() == good
    assert [path.name for path in (installed.mom_priv / "site-prologue.d").iterdir()] == ["50-site"]
    assert installed.config.read_text() == CONFIG + BLOCK.format(prefix=installed.prefix)


# -- refusals: nothing is changed ---------------------------------------------------------------------------------


@pytest.mark.threat(1)
@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "$job_starter_run_privileged true",
            "{config} has $job_starter_run_privileged true: every user would run code as root (LD_PRELOAD through "
            "qsub -v); remove that line",
        ),
        (
            "  $job_starter_run_privileged  Yes # why not",
            "{config} has $job_starter_run_privileged true: every user would run code as root (LD_PRELOAD through "
            "qsub -v); remove that line",
        ),
        (
            "$job_starter /opt/other/starter --fast",
            "{config} has another $job_starter (/opt/other/starter --fast); pbsdock's run hook must be the job starter: "
            "remove that line, or have the other one start {prefix}/hooks/run",
        ),
        (
            "$node_check_script /opt/other/check",
            "{config} has another $node_check_script (/opt/other/check); call {prefix}/hooks/node-check from it and "
            "remove the line, then run this again",
        ),
    ],
)
def test_a_configuration_that_cannot_be_joined_is_refused(scratch: Scratch, line: str, says: str) -> None:
    """One sentence with the cure, and no file touched."""
    scratch.config.write_text(CONFIG + line + "\n")
    before = scratch.tree()

    said = scratch.refusal()

    assert said == f"install.sh: {says.format(config=scratch.config, prefix=scratch.prefix)}\n"
    assert scratch.tree() == before


@pytest.mark.parametrize("line", ["$job_starter_run_privileged false", "# $job_starter /other", "$job_starters /x"])
def test_harmless_lines_are_not_refused(scratch: Scratch, line: str) -> None:
    """A comment, a false and a parameter of a similar name stop nobody."""
    scratch.config.write_text(CONFIG + line + "\n")

    assert scratch.install("--dry-run").returncode == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--prefix", "opt"], "opt is not an absolute path"),
        (["--prefix", "/opt/a b"], "/opt/a b holds characters other than letters, digits and / . _ + -"),
        (["--python", "/nonexistent"], "/nonexistent does not exist; name an interpreter with --python"),
        (["--wheels", "/nonexistent"], "--wheels /nonexistent is not a directory"),
        (["--prefix"], "--prefix needs a value"),
        (
            ["--prefix", "/opt/" + "p" * 80],
            "the line '$node_check_script /opt/"
            + "p" * 80
            + "/hooks/node-check' is longer than the 117 characters mom "
            "reads; choose a shorter --prefix",
        ),
    ],
)
def test_unusable_options_are_refused(scratch: Scratch, options: list[str], says: str) -> None:
    """A sentence each, nothing written."""
    before = scratch.tree()

    assert scratch.refusal(*options) == f"install.sh: {says}\n"
    assert scratch.tree() == before


@pytest.mark.parametrize("mode", [0o775, 0o1777])
def test_a_directory_others_can_write_is_refused(scratch: Scratch, mode: int) -> None:
    """Hooks are not put where somebody else could exchange them, or add some: a sticky directory is none either."""
    scratch.mom_priv.chmod(mode)

    assert scratch.refusal() == (
        f"install.sh: {scratch.mom_priv} is writable by others (mode {mode:04o}); use chmod go-w\n"
    )


# -- packages: only what the lock names by its hash ---------------------------------------------------------------


@pytest.fixture
def exchanged(wheels: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """The same wheels, but for one: it has one module more and is a working wheel all the same; and its name."""
    copy = tmp_path / "wheels"
    shutil.copytree(wheels, copy)
    (wheel,) = copy.glob(f"{request.param}-*.whl")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(f"{request.param}/more.py", "print('not what was published')\n")
    return copy, wheel.name


@pytest.mark.threat(27)
@pytest.mark.parametrize("exchanged", ["docker", "setuptools"], indirect=True)
def test_an_exchanged_package_is_refused(scratch: Scratch, exchanged: tuple[Path, str]) -> None:
    """What runs, and what builds it: one sentence, no program, no hook, mom's configuration as it was."""
    directory, name = exchanged
    before = {path: one for path, one in scratch.tree().items() if path.startswith("mom_priv")}

    said = scratch.refusal("--wheels", str(directory))

    assert said == (
        f"install.sh: {name} is not the file whose sha256 is in lock/run.txt or lock/build.txt; it was exchanged or "
        "damaged, nothing was installed\n"
    )
    after = scratch.tree()
    assert {path: one for path, one in after.items() if path.startswith("mom_priv")} == before
    assert [path for path in after if path.startswith("root") and not (scratch.base / path).is_dir()] == [
        "root/etc/pbsdock/instance"
    ]


@pytest.mark.parametrize("exchanged", ["requests"], indirect=True)
def test_a_refused_upgrade_leaves_what_was_there(installed: Scratch, exchanged: tuple[Path, str], newer: Path) -> None:
    """The old program stays in force, whole and unchanged, and nothing of the new one is left."""
    before = installed.tree()

    said = replace(installed, checkout=newer).refusal("--wheels", str(exchanged[0]))

    assert f"install.sh: {exchanged[1]} is not the file whose sha256 is in lock/run.txt" in said
    assert installed.tree() == before
    assert installed.install("--check").returncode == 0


def test_a_package_that_is_lacking_is_named(scratch: Scratch, wheels: Path, tmp_path: Path) -> None:
    """Wheels for another Python, or not all of them: which one, and where to read on."""
    for wheel in wheels.iterdir():
        if not wheel.name.startswith("psutil-"):
            (tmp_path / wheel.name).symlink_to(wheel)
    (lacking,) = (one for one in (REPOSITORY / "lock/run.txt").read_text().split() if one.startswith("psutil=="))

    assert scratch.refusal("--wheels", str(tmp_path)) == (
        f"install.sh: {tmp_path} has no {lacking} for this Python; fill it with install.sh --fetch, nothing was installed\n"
    )


def test_nothing_but_the_lock_is_in_the_environment(installed: Scratch) -> None:
    """No tool that built it is left on the node."""
    names = {
        one.name.split("-")[0].lower() for one in installed.home.glob("venv/lib/python3*/site-packages/*.dist-info")
    }
    locked = set(re.findall(r"^([a-z0-9_.-]+)==", (REPOSITORY / "lock/run.txt").read_text(), re.MULTILINE))

    assert names == {one.replace("-", "_") for one in locked} | {"pbsdock"}


# -- dry run, strays, uninstall -----------------------------------------------------------------------------------


def test_a_dry_run_tells_and_changes_nothing(scratch: Scratch) -> None:
    """Everything that would be done is said, stray prologues are warned of."""
    (scratch.mom_priv / "epilogue").write_text("#!/bin/sh\n")
    for name in ("prologue.user", "prologue.fast"):
        (scratch.mom_priv / name).write_text("#!/bin/sh\n")
    (scratch.mom_priv / "prologue.d").mkdir()
    before = scratch.tree()

    done = scratch.install("--dry-run")

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"(warning: )?this host: cgroup v[12], .*", lines.pop(2))
    assert lines == [
        f"would install the program into {scratch.prefix}, hooks into {scratch.mom_priv}, "
        f"configuration into {scratch.root}/etc/pbsdock/pbsdock.toml",
        f"would keep the site's own epilogue as {scratch.mom_priv}/site-epilogue.d/50-site",
        f"would make sure that {scratch.config} has:",
        f"    $job_starter {scratch.prefix}/hooks/run",
        f"    $node_check_script {scratch.prefix}/hooks/node-check",
        "    $node_check_interval 1,jobstart,jobend",
        "    $down_on_error true",
        f"warning: {scratch.mom_priv}/prologue.d is a directory: with qsub -T d mom takes it for a prologue that "
        "fails, and the node for a sick one; move it away",
        f"warning: {scratch.mom_priv}/prologue.fast exists: qsub -T fast runs it instead of pbsdock's prologue; a "
        "#DOCKER line in such a job is refused",
    ]
    assert scratch.tree() == before


def test_uninstall_restores_the_node(scratch: Scratch, installed: Scratch) -> None:
    """The site's hooks and mom's configuration come back byte for byte; configuration, state and logs stay."""
    scratch.config.write_text("$pbsserver server\n$down_on_error false")
    for name in ("prologue", "epilogue.parallel"):
        (scratch.mom_priv / name).write_text(SITE_PROLOGUE)
        (scratch.mom_priv / name).chmod(0o700)
    before = {name: one for name, one in scratch.tree().items() if name.startswith("mom_priv")}
    done = replace(scratch, packages=installed.home).install()
    assert done.returncode == 0, done.stderr
    assert (
        f"warning: {scratch.config} says $down_on_error false: a faulty node goes on taking jobs and returning them"
        in done.stdout.splitlines()
    )
    shared = scratch.prefix / "bin/other"
    shared.write_text("not ours\n")

    done = scratch.install("--uninstall")

    assert (done.returncode, done.stderr) == (0, "")
    after = scratch.tree()
    assert {name: one for name, one in after.items() if name.startswith("mom_priv")} == before
    assert {name for name in after if not name.startswith("mom_priv") and "." in name.rsplit("/", 1)[-1]} == {
        "root/etc/pbsdock/pbsdock.toml"
    }
    assert shared.read_text() == "not ours\n"


def test_uninstall_keeps_what_was_changed_since(installed_once: tuple[Scratch, str]) -> None:
    """Lines the admin added to mom's configuration meanwhile stay; a line of ours outside the block goes."""
    node, _said = installed_once
    copy = _new(node.config.read_text().replace(str(node.base), "@") + "$usecp *:/home /home\n")
    try:
        text = copy.config.read_text().replace("@", str(copy.base))
        copy.config.write_text(text + f"$job_starter {copy.prefix}/hooks/run\n")

        done = copy.install("--uninstall")

        assert done.returncode == 0, done.stderr
        assert copy.config.read_text() == CONFIG + "$usecp *:/home /home\n"
    finally:
        shutil.rmtree(copy.base)


# -- versions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def twice(installed: Scratch, newer: Path) -> Iterator[Scratch]:
    """The installed node with a later version's checkout; afterwards there is the first version alone."""
    first = installed.home
    yield replace(installed, checkout=newer)
    if installed.home != first:
        assert installed.install().returncode == 0
    (installed.prefix / "previous").unlink(missing_ok=True)
    for one in (installed.prefix / "versions").iterdir():
        if one != first:
            shutil.rmtree(one)


def test_an_upgrade_and_back(installed: Scratch, twice: Scratch) -> None:
    """Each version has a directory of its own, which nothing changes; mom's hooks and its configuration stay as they are."""
    first = installed.home
    around = {path: one for path, one in installed.tree().items() if path.startswith("mom_priv") or "/hooks/" in path}

    assert installed.refusal("--rollback") == (
        f"install.sh: {installed.prefix} has no previous version to go back to; install the one that is wanted\n"
    )
    done = twice.install()
    second = installed.home

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"installed pbsdock 0.1.1 into {installed.mom_priv}"
    assert (first.name[:6], second.name[:6]) == ("0.1.0-", "0.1.1-")
    assert second.parent == first.parent == installed.prefix / "versions"
    told = twice.install("--check")
    assert _told(told.stdout) == [
        f"version {second.name} is in force; the previous one is {first.name}",
        f"pbsdock is installed correctly in {installed.mom_priv}",
    ]
    both = {path: one for path, one in installed.tree().items() if "/versions/" in path}

    command = [str(installed.prefix / "bin/pbsdock"), "setup", "rollback"]
    back = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (back.returncode, back.stderr, installed.home) == (0, "", first)
    assert back.stdout.splitlines()[-1] == (
        f"version {first.name} is in force now; rolling back once more exchanges it for {second.name} again"
    )
    again = twice.install()
    assert (again.returncode, installed.home) == (0, second)
    assert twice.install("--rollback").returncode == 0
    assert installed.home == first
    assert {path: one for path, one in installed.tree().items() if "/versions/" in path} == both
    assert around.items() <= installed.tree().items()


def test_a_configuration_that_the_other_version_cannot_read(installed: Scratch, twice: Scratch) -> None:
    """Neither an upgrade nor a rollback leads to a node out of service: what is in force stays, and the key is named."""
    first, policy = installed.home, installed.root / "etc/pbsdock/pbsdock.toml"
    assert twice.install().returncode == 0
    second, good = installed.home, policy.read_text()
    (tables,) = first.glob("venv/lib/python3*/site-packages/pbsdock/config/sections.py")
    known = tables.read_text()
    try:
        policy.write_text("[history]\nmax_bytes = 1048576\n")
        tables.write_text(known.replace("max_bytes: int", "most_bytes: int"))
        said = twice.refusal("--rollback")
        stayed = installed.home
        tables.write_text(known)
        assert twice.install("--rollback").returncode == 0
    finally:
        tables.write_text(known)
        policy.write_text(good)

    assert stayed == second
    assert said.startswith(f"install.sh: version {second.name} stays in force: {first.name} cannot run with this")
    assert "max_bytes" in said
    assert installed.home == first


def test_no_file_of_one_version_is_the_others(installed: Scratch, twice: Scratch) -> None:
    """No shared inode, and nothing in the second names the first: the first can go while the second runs."""
    assert twice.install().returncode == 0
    first = next(one for one in (installed.prefix / "versions").iterdir() if one != installed.home)
    inodes = {path.stat().st_ino for path in first.rglob("*") if path.is_file() and not path.is_symlink()}
    files = [path for path in installed.home.rglob("*") if path.is_file() and not path.is_symlink()]

    assert not [path for path in files if path.stat().st_ino in inodes]
    assert not [path for path in files if path.suffix != ".pyc" and str(first).encode() in path.read_bytes()]


def test_a_version_processes_run_from_stays(installed: Scratch, twice: Scratch, newer: Path, tmp_path: Path) -> None:
    """Exactly one previous version is kept; an older one goes as soon as nobody runs from it."""
    first = installed.home
    shutil.copytree(newer, tmp_path / "third")
    config = tmp_path / "third/setup.cfg"
    config.write_text(config.read_text().replace("0.1.1", "0.1.2"))
    third = replace(twice, checkout=tmp_path / "third")
    with subprocess.Popen(
        [str(first / "venv/bin/python3"), "-I", "-c", "import psutil; print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as runs:
        assert runs.stdout is not None
        runs.stdout.readline()
        assert twice.install().returncode == 0
        second = installed.home
        assert third.install().returncode == 0
        there = set((installed.prefix / "versions").iterdir())
        told = third.install("--check").stdout.splitlines()
        runs.kill()
    assert there == {first, second, installed.home}
    assert f"version {first.name} stays until the next installation, or as long as processes run from it" in told
    assert third.install("--rollback").returncode == 0
    assert third.install("--rollback").returncode == 0
    hook = installed.mom_priv / "epilogue"
    hook.chmod(0o700)
    assert third.install().returncode == 0
    assert set((installed.prefix / "versions").iterdir()) == {second, installed.home}


def test_an_installation_that_is_killed_leaves_the_old_version(installed: Scratch, twice: Scratch) -> None:
    """Half of a new version is in nobody's way: what was in force is whole, and the next installation makes it anew."""
    first = installed.home
    command = [str(twice.checkout / "install.sh"), "--mom-priv", str(installed.mom_priv), "--root", str(installed.root)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as half:
        deadline = time.monotonic() + 60
        while not list((installed.prefix / "versions").glob("0.1.1-*/venv/lib/python3*/site-packages/docker")):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.killpg(half.pid, signal.SIGKILL)
    (left,) = (installed.prefix / "versions").glob("0.1.1-*")

    assert not (left / "version.json").exists()
    assert installed.home == first
    assert installed.install("--check").returncode == 0
    assert installed.install().stdout.startswith("nothing to do")
    assert twice.install().returncode == 0
    assert installed.home == left
    assert twice.install("--check").returncode == 0


def test_two_installations_at_once(installed: Scratch, twice: Scratch) -> None:
    """The second one says so and touches nothing."""
    before = installed.tree()
    fd = os.open(installed.prefix / "versions", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        said = [twice.refusal(), twice.refusal("--rollback"), twice.refusal("--uninstall")]
    finally:
        os.close(fd)

    assert said == [f"install.sh: another installation into {installed.prefix} is under way; wait for it to end\n"] * 3
    assert installed.tree() == before


def test_a_rollback_to_what_was_changed_is_refused(installed: Scratch, twice: Scratch) -> None:
    """The version in force stays there, and the sentence names the file."""
    first = installed.home
    assert twice.install().returncode == 0
    hook = first / "hooks/prologue"
    text = hook.read_text()
    hook.write_text(text + "# and more\n")
    try:
        said, there = twice.refusal("--rollback"), installed.home
        told = twice.install("--check").stdout
    finally:
        hook.write_text(text)

    problem = f"{hook} is not as it was installed; run install.sh again"
    assert said == f"install.sh: version {there.name} stays in force: {problem}\n"
    assert there.name.startswith("0.1.1-")
    assert f"wrong: {problem}" in told.splitlines()


def test_a_changed_version_is_made_again_beside(installed: Scratch) -> None:
    """What processes run from is not mended under their feet; the directory that was changed goes."""
    first = installed.home
    hook = first / "hooks/epilogue"
    hook.write_text(hook.read_text() + "# and more\n")

    done = replace(installed, packages=first).install()

    assert done.returncode == 0, done.stderr
    assert installed.home.name == f"{first.name}.1"
    assert not first.exists()
    assert not os.path.lexists(installed.prefix / "previous")
    assert installed.install("--check").returncode == 0
