"""T30, T34, T12, T14, T29, T32: networks of the docker of jobs, and what it is told in confidence."""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tests.conftest import IMAGE, Instance, wait_until
from tests.support.attack import ATTACKER, is_healthy
from tests.support.shim import bare, begin_bare, client

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("images")]
_CANARY = f"CANARY{secrets.token_hex(5)}"


@pytest.fixture
def service() -> Iterator[int]:
    """The port of something that listens on every address of the node."""
    with socket.socket() as listening:
        listening.bind(("0.0.0.0", 0))
        listening.listen(64)
        yield listening.getsockname()[1]


@pytest.mark.threat(34)
def test_an_internal_network_does_not_reach_the_node(instance: Instance, service: int) -> None:
    """Its containers find one another and nothing else: neither the node by its address on it, nor other networks."""
    done = bare(
        instance,
        f"""
docker network create --internal inner >/dev/null
docker run -d --name web --network inner {IMAGE} sh -c 'echo found >/tmp/index.html; httpd -f -p 8080 -h /tmp' >/dev/null
sleep 1
docker run --rm --network inner {IMAGE} sh -c '
  wget -qO- http://web:8080/index.html
  own=$(ip -4 addr show eth0 | sed -n "s/.*inet \\([0-9]*\\.[0-9]*\\.[0-9]*\\)\\..*/\\1/p")
  for host in $own.1 172.17.0.1 $(ip route | sed -n "s/default via \\([0-9.]*\\).*/\\1/p"); do
    echo | timeout 4 nc -w 2 $host {service} >/dev/null 2>&1; [ $? != 1 ] && echo reached $host; done; echo end'
""",
    )

    assert done.stdout == b"found\nend\n", (done.stdout, done.stderr)


def test_networks_of_others(instance: Instance) -> None:
    """By their own names and by the engine's: a container of another job is not found, nor is its network joined."""
    trial = begin_bare(
        instance,
        f"docker network create inner; docker run -d --name web --network inner {IMAGE} sh -c 'httpd -f -p 8080' && echo ready; sleep 60",
    )
    wait_until("it runs", lambda: b"ready" in trial.out_path.read_bytes())
    identifier = trial.out_path.read_text().split()[0]
    names = subprocess.run(
        ["docker", "network", "ls", "--format", "{{.Name}}"], capture_output=True, text=True, check=True
    )
    theirs = [name for name in names.stdout.split() if trial.job.id.safe in name]
    words = " ".join(["inner", identifier, identifier[:12], *theirs, "bridge2", "container:web"])
    done = bare(
        instance,
        f"for name in {words}; do docker run --rm --network $name {IMAGE} echo joined $name; docker network inspect -f '{{{{.Id}}}}' $name"
        " | grep .; docker network rm -f $name 2>/dev/null | grep .; done",
        ATTACKER,
    )
    trial.qdel()
    trial.finish(trial.wait())

    assert theirs
    assert done.stdout == b"", (done.stdout, done.stderr)


def test_more_networks_than_a_user_may_have(instance: Instance) -> None:
    """Each takes a range of the engine's addresses, which are all users': so many of a job, also of those asked for at
    once, and so many of a user."""
    code = """
        links = [ask("network", "create", "net%d" % number) for number in range(24)]
        print(sorted(until(link)[0].text("code") or "made" for link in links).count("0"), flush=True)
        time.sleep(float(sys.argv[2]))
    """
    first = begin_bare(instance, client(instance, code, "30"))
    wait_until("they are made", lambda: first.out_path.read_bytes().endswith(b"\n"))
    second = bare(instance, client(instance, code, "0"))
    other = bare(instance, client(instance, code, "0"), ATTACKER)
    first.qdel()
    first.finish(first.wait())

    assert (first.out_path.read_bytes() if first.out_path.exists() else b"8\n") == b"8\n"
    assert int(second.stdout) <= 4
    assert other.stdout == b"8\n"
    assert instance.left() == []


def test_logins_at_registries_of_no_image(instance: Instance, service: int) -> None:
    """The engine asks from where no user can: for a registry that images.allow does not name it asks nobody."""
    asked = []
    with socket.socket() as listening, ThreadPoolExecutor(1) as pool:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        listening.settimeout(8)

        def look() -> None:
            try:
                asked.append(listening.accept()[0].recv(10))
            except OSError:
                pass

        good = instance.config.read_text()
        instance.configure(good.replace("[images]\n", '[images]\nallow = ["docker.io/*"]\n'))
        looking = pool.submit(look)
        port = listening.getsockname()[1]
        done = bare(
            instance,
            "\n".join(
                f"docker login -u x -p {_CANARY} {name} && echo in"
                for name in (
                    f"127.0.0.1:{port}",
                    f"http://127.0.0.1:{port}",
                    f"x@127.0.0.1:{port}",
                    "169.254.169.254",
                    "../..",
                    f"127.0.0.1:{port}/v2/x",
                )
            ),
        )
        looking.result()
        instance.configure(good)

    assert done.stdout == b"", done.stderr
    assert asked == []


@pytest.mark.threat(12, 14, 29, 32)
def test_secrets_are_told_to_nobody(instance: Instance) -> None:
    """Keys in -e, in an env-file, in the command and in what is refused, passwords of logins and of wrong ones: in no
    event, no file that others read, no record of the engine's."""
    inspected = []
    trial = begin_bare(
        instance,
        f"""
cd; export KEY={_CANARY}; echo FILE={_CANARY} >keys; printf 'BAD {_CANARY}\\n' >wrong; mkdir -p .docker
docker run -d --name box -e A={_CANARY} -e KEY --env-file keys -l label={_CANARY} {IMAGE} sh -c 'echo {_CANARY}; sleep 60' >/dev/null
docker exec -d -e B={_CANARY} box sleep 60
docker run -e ={_CANARY} {IMAGE} true; docker run --env-file wrong {IMAGE} true; docker run --nosuch {_CANARY} {IMAGE} true
docker run -e A={_CANARY} -v /etc:/x {IMAGE} true; docker run -e A={_CANARY} nosuch.example.org/x:1 true
docker run -e A={_CANARY} -v /etc/{_CANARY}:/x {IMAGE} true
docker login -u x -p {_CANARY} localhost:1; echo {_CANARY} | docker login -u x --password-stdin localhost:1
printf '{_CANARY}\\377\\n' | docker login -u x --password-stdin localhost:1; docker login -p {_CANARY}
rm -f keys wrong; echo ready; sleep 60""",
    )
    wait_until("it runs", lambda: b"ready" in trial.out_path.read_bytes(), 40)
    with closing(instance.engine()) as engine:
        for found in engine.api.containers(all=True):
            inspected.append(str(engine.api.inspect_container(found["Id"])))
    readable = subprocess.run(
        [
            "grep",
            "-rslF",
            "--",
            _CANARY,
            *map(str, (instance.run_dir, instance.state_dir, instance.events_file.parent, "/var/lib/docker")),
        ],
        user=ATTACKER,
        group=ATTACKER,
        capture_output=True,
        check=False,
    ).stdout
    trial.qdel()
    trial.finish(trial.wait())
    events = [event for event in instance.events(None) if _CANARY in str(event)]

    # A refused command is told as it was said: what a path or an image is called is no secret.
    assert {event["event"] for event in events} <= {"child.refused"}, events
    assert not [event for event in events if f"/etc/{_CANARY}" not in event["sentence"]], events
    assert not [text for text in inspected if _CANARY in text]
    assert readable == b""
    assert not subprocess.run(
        ["grep", "-rslF", _CANARY, str(instance.state_dir)], capture_output=True, check=False
    ).stdout
    assert is_healthy(instance)
