"""What everyday users bring: homes and directories that are links, qsub from scratch, shells and users an image does not
know, variables of a login node, images chosen on the command line. Compared with a bare job where there is one."""

from __future__ import annotations

import io
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from pbsdock.host import syscalls
from tests.conftest import HOST_IMAGE, IMAGE, NO_SHELL_IMAGE, ROOT, USERS, Instance, wait_until

pytestmark = pytest.mark.engine
LINKED = "pbsdock-linked"
BASH = "pbsdock-bash"


def _user(name: str, shell: str = "/bin/sh") -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "-m", "-s", shell, name], check=True)
        return pwd.getpwnam(name)


def _own(path: Path, user: str, mode: int = 0o755) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    os.chown(path, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    return path


@pytest.fixture
def site() -> Iterator[Path]:
    """A directory that is not the system's, as a site's scratch."""
    path = Path(tempfile.mkdtemp(prefix="pbsdock-site.", dir="/srv"))
    path.chmod(0o755)
    yield path
    for point in reversed([point for point, _ in syscalls.mount_points() if point.startswith(f"{path}/")]):
        syscalls.unmount(point)
    shutil.rmtree(path)


@pytest.fixture
def configured(instance: Instance) -> Iterator[Callable[[str], None]]:
    """Sets the site's policy for one test."""
    before = instance.config.read_text() if instance.config.exists() else ""
    yield instance.configure
    instance.end_all()
    instance.configure(before)


@pytest.fixture
def linked(site: Path) -> Iterator[Path]:
    """The real home of a user whose passwd entry names a link, by way of another."""
    _user(LINKED)
    real = _own(site / "gpfs/home/dora", LINKED, 0o700)
    (site / "home").mkdir()
    (site / "homes").symlink_to("gpfs/home")
    (site / "home/dora").symlink_to(site / "homes/dora")
    subprocess.run(["usermod", "-d", str(site / "home/dora"), LINKED], check=True)
    yield real
    subprocess.run(["usermod", "-d", f"/home/{LINKED}", LINKED], check=True)


# -- where the user is ------------------------------------------------------------------------------------------


def test_a_home_that_is_a_link(instance: Instance, site: Path, linked: Path) -> None:
    """All its names work, and the job starts where a bare one does."""
    run = _own(linked / "run", LINKED)
    names = [site / "home/dora", site / "homes/dora", linked]
    for work_dir in (site / "home/dora/run", run):
        body = "pwd\necho x >relative\ncd $PBS_O_WORKDIR && pwd && echo y >here\n"
        body += "".join(f"cat {name}/run/here {name}/relative\n" for name in names)
        bare = instance.run(f"#!/bin/sh\n{body}", user=LINKED, work_dir=str(work_dir))
        done = instance.run(f"#!/bin/sh\n#DOCKER {HOST_IMAGE}\n{body}", user=LINKED, work_dir=str(work_dir))

        assert bare.stdout.splitlines()[:2] == [os.fsencode(linked), os.fsencode(work_dir)]
        assert (done.stdout, done.stderr, done.exit_status) == (bare.stdout, b"", 0)
        for name in ("relative", "run/here"):
            (linked / name).unlink()


def test_a_linked_home_of_an_interactive_job_and_a_task(instance: Instance, linked: Path) -> None:
    """They start there as well."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 20\n", user=LINKED)
    wait_until("the job runs", lambda: any(one["event"] == "job.started" for one in instance.events(trial.job_id)))
    assert _task(trial, "pwd") == os.fsencode(linked) + b"\n"
    trial.qdel()
    trial.finish(trial.wait())

    typed = instance.begin(None, user=LINKED, variables={"PBSDOCK": IMAGE}, shell="/bin/sh")
    os.write(typed.terminal or -1, b"pwd; exit 9\r")
    assert typed.wait() == 9
    assert os.fsencode(linked) in typed.finish(9).stdout


def _task(trial, command: str) -> bytes:  # type: ignore[no-untyped-def]  # a Trial
    read, write = os.pipe()
    task = trial.task(["/bin/sh", "-c", command], write)
    os.close(write)
    task.wait(20)
    with open(read, "rb") as file:
        return file.read()


def test_links_within_the_home(instance: Instance, site: Path, linked: Path) -> None:
    """~/data is a link to a link on another file system: qsub from there, by either name."""
    real = _own(site / "v2/run", LINKED).parent
    (site / "current").symlink_to("v2")
    (linked / "data").symlink_to(site / "current")
    for name in (site / "home/dora/data/run", linked / "data/run", site / "current/run", real / "run"):
        body = f"cd $PBS_O_WORKDIR && pwd && echo x >f && cat {real}/run/f\n"
        if name != real / "run":  # with that name alone nothing tells of the others
            body += f"cat ~/data/run/f {site}/current/run/f\n"
        bare = instance.run(f"#!/bin/sh\n{body}", user=LINKED, work_dir=str(name))
        done = instance.run(f"#!/bin/sh\n#DOCKER {HOST_IMAGE}\n{body}", user=LINKED, work_dir=str(name))

        assert bare.stdout.startswith(os.fsencode(name) + b"\nx\n")
        assert (done.stdout, done.stderr) == (bare.stdout, b"")


@pytest.mark.parametrize("start", [False, True])
def test_qsub_from_scratch(instance: Instance, site: Path, start: bool) -> None:
    """The directory of qsub (and -d) is there without a word of the site's: the user's own, or of a group of theirs."""
    own = _own(site / "own", USERS[0])
    shared = site / "shared"
    shared.mkdir()
    shutil.chown(shared, "root", "pbsdock-g")
    shared.chmod(0o2775)
    for directory in (own, shared):
        where = {"PBS_O_INITDIR": str(directory)} if start else {}
        work_dir = None if start else str(directory)
        body = "pwd; cd $PBS_O_INITDIR; touch made; ls\n" if start else "pwd; cd $PBS_O_WORKDIR; touch made; ls\n"
        bare = instance.run(f"#!/bin/sh\n{body}", variables=where, work_dir=work_dir)
        (directory / "made").unlink()
        done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n{body}", variables=where, work_dir=work_dir)

        assert (done.stdout, done.stderr, done.exit_status) == (bare.stdout, b"", 0)
        assert (directory / "made").exists()


def test_qsub_from_what_is_not_the_users(instance: Instance, site: Path) -> None:
    """Left out with one line that says why; to start there is refused, as a job in the wrong place does harm."""
    others, world = _own(site / "others", USERS[1], 0o777), site / "world"
    world.mkdir(mode=0o777)
    world.chmod(0o1777)
    for directory in (others, world):
        done = instance.run(
            f"#!/bin/sh\n#DOCKER {IMAGE}\nls {directory} 2>/dev/null; echo ran\n", work_dir=str(directory)
        )
        refused = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ran\n", variables={"PBS_O_INITDIR": str(directory)})
        chosen = instance.run(f"#!/bin/sh\n#DOCKER -w /tmp {IMAGE}\npwd\n", variables={"PBS_O_INITDIR": str(directory)})

        assert (done.exit_status, done.stdout) == (0, b"ran\n")
        assert done.stderr.decode() == (
            f"pbsdock: the directory of qsub is not in the container: {directory} cannot be mounted: neither you nor a group"
            " of yours owns it and may write to it, and this site allows paths below "
            + pwd.getpwnam(USERS[0]).pw_dir
            + "; submit the job from a directory of your own or below your home, or ask your site to add it to [mounts]"
            " allow\n"
        )
        assert (refused.exit_status, refused.stdout) == (125, b"")
        assert (
            f"pbsdock: the job is to start in {directory}, which is not in the container: ".encode() in refused.stderr
        )
        assert (chosen.exit_status, chosen.stdout) == (0, b"/tmp\n")


def test_a_site_closes_the_directory_of_qsub(instance: Instance, site: Path, configured: Callable[[str], None]) -> None:
    """Wholly, to what it allows, or a part; a job may not start there then."""
    own = _own(site / "own", USERS[0])
    for policy, reason in (
        ("work_dir = 'none'", "this site does not mount the directory a job was submitted from"),
        ("work_dir = 'allowed'", "this site allows paths below"),
        (f"deny = ['{site}']", f"this site keeps {site} closed"),
    ):
        configured(f"[mounts]\n{policy}\n")
        done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\nls {own} 2>&1 | wc -l\n", work_dir=str(own))
        start = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n", variables={"PBS_O_INITDIR": str(own)})

        assert done.stderr.count(b"\n") == 1
        assert reason.encode() in done.stderr
        assert (start.exit_status, reason.encode() in start.stderr) == (125, True)


def test_interactive_job_in_a_directory_that_is_not_there(instance: Instance, site: Path) -> None:
    """It is refused too, on its terminal."""
    others = _own(site / "others", USERS[1])
    trial = instance.begin(None, variables={"PBSDOCK": IMAGE, "PBS_O_INITDIR": str(others)}, shell="/bin/sh")
    status = trial.wait()

    assert status == 125
    assert b"which is not in the container" in trial.finish(status).stdout


def test_no_home(instance: Instance) -> None:
    """Nothing of it is there but the directory of qsub, and the job still runs."""
    home = Path(pwd.getpwnam(USERS[0]).pw_dir)
    run = _own(home / "run", USERS[0])
    (home / "dotfile").touch()
    body = "pwd; ls $HOME; cd $PBS_O_WORKDIR && echo x >in && pwd\n"
    done = instance.run(f"#!/bin/sh\n#DOCKER --no-home {IMAGE}\n{body}", work_dir=str(run))
    home_only = instance.run(f"#!/bin/sh\n#DOCKER --no-home {IMAGE}\nls $HOME/dotfile 2>/dev/null; echo $HOME\n")

    written = (run / "in").exists()
    shutil.rmtree(run)
    (home / "dotfile").unlink()
    assert (done.stdout.decode(), done.stderr, written) == (f"/\nrun\n{run}\n", b"", True)
    assert (home_only.stdout.decode(), home_only.stderr) == (f"{home}\n", b"")


# -- who the user is --------------------------------------------------------------------------------------------


def _image(files: dict[str, bytes], *changes: str) -> str:
    """IMAGE with more files, and changes as ``docker commit`` takes them."""
    name = f"{IMAGE.rpartition(':')[0]}-more:{abs(hash((tuple(files), changes)))}"
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    client = docker.from_env()
    made = client.api.create_container(IMAGE, "-")["Id"]
    try:
        client.api.put_archive(made, "/", data.getvalue())
        client.api.commit(made, name.rpartition(":")[0], name.rpartition(":")[2], changes=list(changes))
    finally:
        client.api.remove_container(made)
        client.close()
    return name


@pytest.fixture
def images_made() -> Iterator[Callable[..., str]]:
    made: list[str] = []

    def make(files: dict[str, bytes], *changes: str) -> str:
        made.append(_image(files, *changes))
        return made[-1]

    yield make
    subprocess.run(["docker", "rmi", "-f", *made], capture_output=True, check=False)


def test_a_shell_the_image_lacks(instance: Instance) -> None:
    """$SHELL and the passwd entry name one that it has, for the job, a task and a terminal."""
    _user(BASH, "/bin/bash")
    ask = f"echo $SHELL; grep ^{BASH}: /etc/passwd | cut -d: -f7; test -x $SHELL"
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\n{ask}\nsleep 20\n", user=BASH)
    wait_until("the job runs", lambda: trial.out_path.read_bytes().count(b"\n") == 2)
    task = _task(trial, ask)
    said = trial.out_path.read_bytes()
    trial.qdel()
    trial.finish(trial.wait())
    typed = instance.begin(None, user=BASH, variables={"PBSDOCK": IMAGE})
    os.write(typed.terminal or -1, f"{ask}; exit 9\r".encode())
    status = typed.wait()
    has = instance.run(f"#!/bin/bash\n#DOCKER {HOST_IMAGE}\necho $SHELL\n", user=BASH)

    assert said == b"/bin/sh\n/bin/sh\n"
    assert task == b"\n/bin/sh\n"  # mom gives a task's environment no SHELL
    assert (status, typed.finish(status).stdout.count(b"/bin/sh\r\n")) == (9, 2)
    assert has.stdout == b"/bin/bash\n"


def test_the_images_own_users(instance: Instance, images_made: Callable[..., str]) -> None:
    """Keep their names; the job's user and groups are who they are."""
    entry = pwd.getpwnam(USERS[0])
    passwd = f"root:x:0:0:R:/root:/bin/sh\npostgres:x:70:71:DB:/:/bin/sh\njovyan:x:{entry.pw_uid}:100::/j:/bin/x\n"
    image = images_made({"etc/passwd": passwd.encode(), "etc/group": b"root:x:0:\npg:x:71:postgres\n"})
    done = instance.run(
        f"#!/bin/sh\n#DOCKER {image}\nid -un; id postgres; id -Gn | tr ' ' '\\n' | sort; grep -c jovyan /etc/passwd\n"
    )

    groups = sorted(["pbsdock-a", "pbsdock-g"])
    assert done.stdout.decode().splitlines() == [USERS[0], "uid=70(postgres) gid=71(pg) groups=71(pg)", *groups, "0"]


def test_an_image_with_a_hostile_passwd(instance: Instance, images_made: Callable[..., str]) -> None:
    """Links out of it, a device's size, rubbish: names at the worst."""
    rubbish = images_made(
        {"etc/passwd": b"\xff\0:::\n" * 50_000 + b"root::%d:0::/:/x\n" % pwd.getpwnam(USERS[0]).pw_uid}
    )
    done = instance.run(f"#!/bin/sh\n#DOCKER {rubbish}\nid -un; wc -l </etc/passwd\n")

    assert done.stdout.decode().splitlines() == [USERS[0], "3"]


def test_host_name_on_a_network_of_its_own(instance: Instance) -> None:
    """The node's."""
    done = instance.run(f"#!/bin/sh\n#DOCKER --network none {IMAGE}\nhostname\ncat /proc/sys/kernel/hostname\n")

    assert done.stdout.decode() == f"{socket.gethostname()}\n" * 2


def test_local_time(instance: Instance, images_made: Callable[..., str]) -> None:
    """As on the host, unless the job or the image says otherwise."""
    tokyo = b"TZif2" + b"\0" * 39 + b"TZif2" + b"\0" * 39 + b"\nJST-9\n"
    image = images_made({"etc/localtime": tokyo})
    own = images_made({"etc/localtime": tokyo}, "ENV TZ=JST-9")
    here = subprocess.run(["date", "+%z"], capture_output=True, check=True).stdout

    def offset(name: str, **variables: str) -> bytes:
        return instance.run(f"#!/bin/sh\n#DOCKER {name}\ndate +%z\n", variables=variables).stdout

    assert offset(IMAGE) == offset(image) == offset(HOST_IMAGE) == here
    assert offset(image, TZ="EST5") == b"-0500\n"
    assert offset(own) == b"+0900\n"


# -- the environment --------------------------------------------------------------------------------------------


def test_the_images_own_variables_win(instance: Instance, configured: Callable[[str], None]) -> None:
    """Over what qsub -V drags along; --env NAME and the site choose otherwise."""
    dragged = {"FROM_IMAGE": "host", "MINE": "1"}
    body = "echo $FROM_IMAGE $MINE\n"
    plain = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n{body}", variables=dragged)
    named = instance.run(f"#!/bin/sh\n#DOCKER --env FROM_IMAGE {IMAGE}\n{body}", variables=dragged)
    configured("[env]\nkeep = ['FROM_*']\n")
    kept = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n{body}", variables=dragged)

    assert [one.stdout for one in (plain, named, kept)] == [b"yes 1\n", b"host 1\n", b"host 1\n"]


def test_a_task_has_the_images_variables_too(instance: Instance) -> None:
    """The same rule in a TM task, whose environment mom makes anew."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 20\n", variables={"FROM_IMAGE": "host"})
    wait_until("the job runs", lambda: any(one["event"] == "job.started" for one in instance.events(trial.job_id)))
    said = _task(trial, "echo $FROM_IMAGE")
    trial.qdel()
    trial.finish(trial.wait())

    assert said == b"yes\n"


@pytest.mark.parametrize("line", ["", f"#DOCKER {NO_SHELL_IMAGE}\n", "#DOCKER --bad\n"])
def test_image_of_a_batch_job_on_the_command_line(instance: Instance, line: str) -> None:
    """qsub -v PBSDOCK=… chooses the image of a script without a line, and beats the line of one that has it."""
    body = f"#!/bin/sh\n{line}echo $FROM_IMAGE $MARK $0 [$PBSDOCK]; exit 7\n"
    done = instance.run(body, variables={"PBSDOCK": f"{IMAGE} --env MARK=here"})

    assert (done.exit_status, done.stderr) == (7, b"")
    assert done.stdout.startswith(b"yes here ")
    assert done.stdout.endswith(b".SC []\n")
    assert instance.left() == []
    assert len([one for one in instance.events(done.job_id) if one["event"] == "job.started"]) == 1


def test_wrong_image_on_the_command_line(instance: Instance) -> None:
    """Told with its place, also where the script's own line is right."""
    for line in ("", f"#DOCKER {IMAGE}\n"):
        done = instance.run(f"#!/bin/sh\n{line}echo ran\n", variables={"PBSDOCK": "--privileged x"})

        assert (done.exit_status, done.stdout) == (125, b"")
        assert b"pbsdock: PBSDOCK:1:1: --privileged is not available" in done.stderr
        assert instance.left() == []


def test_image_on_the_command_line_of_the_first_job(instance: Instance) -> None:
    """With no agent on the node: the prologue of a plain job sees to one."""
    instance.kill_agent()
    done = instance.run("#!/bin/sh\necho $FROM_IMAGE\n", variables={"PBSDOCK": IMAGE})

    assert (done.stdout, done.stderr) == (b"yes\n", b"")


def test_command_line_images_of_a_site_that_has_none(instance: Instance, configured: Callable[[str], None]) -> None:
    """Refused, not run bare."""
    configured("[interactive]\nallow = false\n")
    done = instance.run("#!/bin/sh\necho ran\n", variables={"PBSDOCK": IMAGE})

    assert (done.exit_status, done.stdout) == (125, b"")
    assert b"this site does not start containers on demand" in done.stderr


# -- what is mounted --------------------------------------------------------------------------------------------


@pytest.fixture
def shared_mount(site: Path) -> Path:
    """A file system of the site's that takes part in what is mounted below it, as everything does under systemd."""
    top = site / "data"
    top.mkdir()
    syscalls.mount("none", str(top), "tmpfs", 0, "mode=755")
    subprocess.run(["mount", "--make-shared", str(top)], check=True)
    for name in ("late", "never"):
        (top / name).mkdir()
    return top


def _later(instance: Instance, top: Path, options: str) -> bytes:
    """What a job sees of a file system that is mounted while it runs."""
    trial = instance.begin(
        f"#!/bin/sh\n#DOCKER {options} {IMAGE}\necho ready; while [ ! -e ~/go ]; do sleep 0.1; done; ls {top}/late; rm ~/go\n"
    )
    wait_until("the job runs", lambda: b"ready" in trial.out_path.read_bytes())
    syscalls.mount("none", str(top / "late"), "tmpfs", 0, "mode=755")
    (top / "late/file").touch()
    go = Path(pwd.getpwnam(USERS[0]).pw_dir) / "go"
    go.touch()
    os.chown(go.parent / "go", pwd.getpwnam(USERS[0]).pw_uid, -1)
    done = trial.finish(trial.wait())
    syscalls.unmount(str(top / "late"))
    return done.stdout


@pytest.mark.threat(4, 36)
def test_a_file_system_that_comes_while_the_job_runs(
    instance: Instance, shared_mount: Path, configured: Callable[[str], None]
) -> None:
    """Shows below what the site opened; not in a mount for reading only, which nothing would keep so."""
    top = shared_mount
    configured(f"[mounts]\nallow = ['{top}']\n")
    seen = _later(instance, top, f"-v {top}:{top}")
    read_only = _later(instance, top, f"-v {top}:{top}:ro")
    configured(f"[mounts]\nalways = ['{top}:{top}']\n")
    always = _later(instance, top, "")

    assert (seen, read_only, always) == (b"ready\nfile\n", b"ready\n", b"ready\nfile\n")
    assert [point for point, _ in syscalls.mount_points() if "/pins/" in point and str(instance.root) in point] == []


@pytest.mark.threat(4, 36)
def test_no_mount_of_a_container_shows_on_the_host(
    instance: Instance, shared_mount: Path, configured: Callable[[str], None]
) -> None:
    """It is a slave of the host's, whoever mounts in it."""
    top = shared_mount
    configured(f"[mounts]\nallow = ['{top}']\n")
    trial = instance.begin(f"#!/bin/sh\n#DOCKER -v {top}:{top} {IMAGE}\nsleep 20\n")
    wait_until("the job runs", lambda: any(one["event"] == "job.started" for one in instance.events(trial.job_id)))
    pid = instance.inspect(trial.job_id)["State"]["Pid"]
    inside = ["nsenter", "-t", str(pid), "-m", "--", "/bin/mount", "-t", "tmpfs", "none", f"{top}/never"]
    done = subprocess.run(inside, capture_output=True, check=False)
    points = {point for point, _ in syscalls.mount_points()}
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    trial.qdel()
    trial.finish(trial.wait())

    assert done.returncode == 0, done.stderr
    assert any(f"{top}/never" in line for line in lines)
    assert all("shared:" not in line for line in lines if str(top) in line)
    assert f"{top}/never" not in points


@pytest.fixture
def automounted(site: Path) -> Iterator[Path]:
    """A home that is an automount, and a daemon that mounts it when somebody walks into it."""
    entry = _user(LINKED)
    home = site / "auto"
    home.mkdir()
    daemon = subprocess.Popen(
        [sys.executable, "-m", "tests.support.automount", str(home), str(entry.pw_uid)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == b"ready\n"
    subprocess.run(["usermod", "-d", str(home), LINKED], check=True)
    try:
        yield home
    finally:
        subprocess.run(["usermod", "-d", f"/home/{LINKED}", LINKED], check=True)
        daemon.kill()
        daemon.wait()
        for _ in range(2):
            syscalls.unmount(str(home))


def test_a_home_that_is_an_automount(instance: Instance, automounted: Path) -> None:
    """It is triggered before it is looked at: the job has the file system, not the place where it belongs."""
    done = instance.run(f"#!/bin/sh\n#DOCKER -v $HOME:/again {IMAGE}\nls /again; ls ~\n", user=LINKED, work_dir="/")

    assert (done.stdout, done.stderr) == (b"mounted\nmounted\n", b"")


def test_a_fuse_file_system_of_the_users_alone(instance: Instance, site: Path) -> None:
    """Named as what it is, with what to do; and what is advised works."""
    entry = pwd.getpwnam(USERS[0])
    backing, parent = _own(site / "backing", USERS[0]), _own(site / "parent", USERS[0])
    _own(parent / "fuse", USERS[0])
    (backing / "file").touch()
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.squashed", str(backing), str(parent / "fuse"), str(entry.pw_uid)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"mounted\n"
        alone = instance.run(f"#!/bin/sh\n#DOCKER -v {parent}/fuse:/x {IMAGE}\ntrue\n", work_dir=str(parent))
        around = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\nls {parent}/fuse\n", work_dir=str(parent))
    finally:
        syscalls.unmount(str(parent / "fuse"))
        server.kill()
        server.wait()

    assert alone.exit_status == 125
    assert (around.stdout, around.stderr) == (b"file\n", b"")
