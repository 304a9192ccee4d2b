"""T4, T7: the docker of jobs and files. What is mounted, copied, read and written is the user's, by the user's rights."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS, Instance
from tests.support.attack import Entry, image, is_healthy
from tests.support.shim import JOBS, Job, bare, client
from tests.support.threats import seconds

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("images")]


@pytest.fixture
def secret(scratch: Path) -> Path:
    """A directory of root's with a file that no user can read, and one that all can."""
    place = scratch / "docker-secret"
    place.mkdir(exist_ok=True)
    (place / "key").write_text("SECRET")
    (place / "key").chmod(0o600)
    (place / "seen").write_text("SEEN")
    return place


@JOBS
def test_sources_that_are_closed(instance: Instance, secret: Path, job: Job) -> None:
    """By name, by link, by .. and through /proc, as -v and as --mount: none is mounted, nor is an engine's socket."""
    words = (
        "/",
        "/etc",
        str(secret),
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/proc/self/root",
        "/proc/self/root/etc",
        "/proc/self/cwd/../../etc",
        "/proc/1/root",
        "$HOME/..",
        "$HOME/../../etc",
        "$HOME/a-link",
        "$HOME/a-link/docker-secret",
        "$HOME/a-socket",
        "$HOME/a-root/etc",
        "/dev/shm",
        str(instance.run_dir),
        str(instance.run_dir / "door"),
        str(instance.state_dir),
        str(instance.mom_priv),
        "/var/lib/docker",
        "/sys/fs/cgroup",
    )
    lines = "\n".join(
        f"docker run --rm -v {word}:/x {IMAGE} sh -c 'ls -d /x/*' 2>/dev/null | grep -q . && echo got {word}\n"
        f"docker run --rm --mount type=bind,source={word},target=/x {IMAGE} cat /x 2>/dev/null | grep -q . && echo got {word}"
        for word in words
    )
    made = f"cd; ln -sfn {secret.parent} a-link; ln -sfn /var/run/docker.sock a-socket; ln -sfn / a-root\n"
    done = job(instance, f"{made}{lines}\necho end; rm -f a-link a-socket a-root")

    assert done.stdout == b"end\n", done.stderr
    assert is_healthy(instance)


@JOBS
def test_places_that_are_pbsdocks_own(instance: Instance, job: Job) -> None:
    """Nothing is mounted over what every container gets: the engine would make its files, as root, in the user's
    directory, and the first process would be the user's."""
    targets = (
        "/etc",
        "/etc/passwd",
        "/run",
        "/run/pbsdock",
        "/run/pbsdock/pbsdock-init",
        "/run/pbsdock/init",
        "/",
        "/proc",
        "/dev",
    )
    lines = "\n".join(
        f"docker run --rm {option} {IMAGE} echo got {target}"
        for target in targets
        for option in (f"-v $PWD/mine:{target}", f"--mount type=bind,src=$PWD/mine,dst={target}/.")
    )
    done = job(
        instance,
        f"cd $PBS_O_WORKDIR; mkdir -p mine; cp /bin/busybox mine/pbsdock-init 2>/dev/null\n{lines}\n"
        f"docker run --rm --tmpfs /run/pbsdock {IMAGE} echo got tmpfs\nls -a mine; rm -r mine",
    )

    assert [line for line in done.stdout.decode().split() if line not in (".", "..", "pbsdock-init")] == [], done.stderr
    assert not [event for event in instance.events() if event["event"] == "container.mismatch"]
    assert is_healthy(instance)


def test_a_source_exchanged_all_the_time(instance: Instance, secret: Path) -> None:
    """A directory of the user's that is a link to root's every other moment: what is in the container was judged."""
    done = bare(
        instance,
        f"""
cd; mkdir -p real; echo mine >real/seen
(while :; do mkdir -p swapped 2>/dev/null; rmdir swapped 2>/dev/null; ln -sfn {secret} swapped; rm -f swapped; ln -sfn real swapped; rm -f swapped; done) 2>/dev/null &
end=$(( $(date +%s) + {int(seconds(8, 120))} ))
while [ $(date +%s) -lt $end ]; do docker run --rm -v $HOME/swapped:/x {IMAGE} cat /x/seen 2>/dev/null; done
kill $!; wait 2>/dev/null; rm -rf swapped real
""",
    )

    assert b"SEEN" not in done.stdout
    assert is_healthy(instance)


def test_copies_go_by_the_users_rights(instance: Instance, secret: Path) -> None:
    """Into a read-only mount, onto devices, through a container's /proc/1/root and links to the host: never as root."""
    home = f"/home/{USERS[0]}"
    done = bare(
        instance,
        f"""
cd; mkdir -p kept; echo kept >kept/file; echo new >new; rm -rf got; mkdir got
docker run -d --name box -v $HOME/kept:/kept:ro {IMAGE} sh -c 'ln -s {secret}/seen /tmp/link; ln -s / /tmp/root; mkfifo /tmp/fifo; sleep 60' >/dev/null
sleep 0.3
for to in /kept/file /kept/other /dev/null /dev/sda /dev/mem /proc/sys/kernel/core_pattern /proc/1/root/etc/passwd /etc/passwd /etc/shadow /bin/sh /run/pbsdock/pbsdock-init; do
  docker cp new box:$to 2>/dev/null && echo wrote $to
done
for from in /tmp/link /tmp/root{secret}/seen /proc/1/root{secret}/seen /proc/self/root{secret}/seen {secret}/key /../../../../..{secret}/seen /proc/1/environ; do
  docker cp -L box:$from got/x 2>/dev/null && grep -l SE got/x
done
timeout 20 docker cp box:/tmp/fifo got/ 2>/dev/null
timeout 20 docker cp box:/dev got/ 2>/dev/null; find got -type b -o -type c -o -type p
cat kept/file; ls kept; docker rm -f box; rm -rf kept new got
""",
    )

    assert done.stdout.decode().split() == ["kept", "file", "box"], (done.stdout, done.stderr)
    assert not os.path.exists(f"{home}/kept")


def test_a_container_that_exchanges_what_is_copied(instance: Instance, secret: Path) -> None:
    """While a tree is copied out and in, the container swaps directories for links to the host's paths: nothing of the
    host's is read, and nothing but the target is written."""
    done = bare(
        instance,
        f"""
cd; rm -rf out in; mkdir -p in/d out; for i in 1 2 3 4 5 6 7 8 9; do echo new >in/d/seen$i; done
docker run -d --name box -v $HOME:/home/mine {IMAGE} sh -c 'mkdir -p /tmp/t/d; echo inner >/tmp/t/d/seen; while :; do mv /tmp/t/d /tmp/t/e; ln -s {secret} /tmp/t/d; rm /tmp/t/d; mv /tmp/t/e /tmp/t/d; done' >/dev/null
end=$(( $(date +%s) + {int(seconds(6, 60))} ))
while [ $(date +%s) -lt $end ]; do
  docker cp box:/tmp/t out >/dev/null 2>&1; docker cp in/. box:/tmp/t >/dev/null 2>&1
  grep -rl SEEN out; rm -rf out; mkdir out
done
docker rm -f box >/dev/null; rm -rf out in; echo end
""",
    )

    assert done.stdout == b"end\n", done.stderr
    assert sorted(os.listdir(secret)) == ["key", "seen"]


@pytest.mark.threat(7)
def test_files_that_docker_itself_names(instance: Instance, secret: Path) -> None:
    """--cidfile and --env-file are opened as the user alone: root's files, links to them, devices, FIFOs."""
    done = bare(
        instance,
        f"""
cd; ln -sfn {secret}/key env; ln -sfn {secret}/planted cid; mkfifo fifo
for file in {secret}/key env /etc/shadow /proc/1/environ /dev/zero {instance.mom_priv}/config; do docker run --rm --env-file $file {IMAGE} env 2>/dev/null && echo read $file; done
for file in {secret}/planted cid /etc/planted {instance.state_dir}/planted; do docker run --rm --cidfile $file {IMAGE} true 2>/dev/null && echo wrote $file; done
timeout 2 docker run --rm --env-file fifo {IMAGE} true; echo $?
(echo A=1 >fifo) & docker run --rm --env-file fifo --cidfile own {IMAGE} sh -c 'echo $A'; stat -c %U own
rm -f env cid fifo own
""",
    )

    assert done.stdout.decode().split() == ["124", "1", USERS[0]], (done.stdout, done.stderr)
    assert sorted(os.listdir(secret)) == ["key", "seen"]
    assert not Path("/etc/planted").exists()


def test_links_of_an_image_in_the_place_of_a_target(instance: Instance, secret: Path) -> None:
    """What is mounted at a path that is a link in the image stays in the container."""
    entries = [Entry("data", kind=tarfile.SYMTYPE, target=f"/proc/self/root/../../..{secret}")]
    with image("docker-links", entries) as links:
        done = bare(
            instance,
            f"cd; mkdir -p mine; touch mine/own; docker run --rm -v $PWD/mine:/data {links} ls /data; rm -r mine",
        )

    assert b"seen" not in done.stdout
    assert sorted(os.listdir(secret)) == ["key", "seen"]
    assert subprocess.run(["findmnt", "-n", str(secret)], capture_output=True, check=False).stdout == b""


def test_a_descriptor_of_a_containers_root(instance: Instance, secret: Path) -> None:
    """What docker cp's own client is given is of use to no other program: no way out of it, no device in it."""
    code = f"""
        link = ask("run", "-d", "--name", "box", "{IMAGE}", "sleep", "60")
        until(link)
        message, fds = until(ask("cp", "box:/etc/passwd", "/tmp"), "cp")
        root = fds[0]
        for path in ("..", "../../../..", "proc/1/root/../..", "proc/self/root"):
            try:
                found = os.open(path + "{secret}/seen", os.O_RDONLY, dir_fd=root)
                print(path, os.read(found, 9))
            except OSError:
                pass
        try:
            os.close(os.open("etc/planted", os.O_WRONLY | os.O_CREAT, dir_fd=root))
            print("wrote")
        except OSError:
            pass
        print("end")
    """
    done = bare(instance, client(instance, code))

    # /proc/self is the looker's own, on the host, where it can read what its owner can.
    assert [line for line in done.stdout.decode().splitlines() if not line.startswith("proc/self/root")] == ["end"], (
        done.stderr
    )
