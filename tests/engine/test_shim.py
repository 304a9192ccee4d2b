"""The docker command of jobs: its containers, as Docker's own client would have them."""

from __future__ import annotations

import pwd
from collections.abc import Callable

import pytest

from pbsdock.trial import Outcome
from tests.conftest import IMAGE, USERS, Instance

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("images")]


def bare(instance: Instance, lines: str, **options: object) -> Outcome:
    """A job without a container of its own."""
    instance.start_agent()  # for such a one nobody else starts it
    return instance.run(f"#!/bin/sh\n{lines}\n", **options)


def contained(instance: Instance, lines: str, **options: object) -> Outcome:
    """The same in a container of its own."""
    return instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n{lines}\n", **options)


JOBS = pytest.mark.parametrize("job", [bare, contained])


@JOBS
def test_run_prints_and_ends_as_its_command(instance: Instance, job: Callable[..., Outcome]) -> None:
    done = job(instance, f"docker run --rm {IMAGE} sh -c 'echo out; echo err >&2; id -u; exit 7'\necho code $?")

    assert done.exit_status == 0, done.stderr
    uid = pwd.getpwnam(USERS[0]).pw_uid
    assert done.stdout.decode() == f"out\n{uid}\ncode 7\n", done.stderr
    assert done.stderr == b"err\n"


@JOBS
def test_input_output_and_names(instance: Instance, job: Callable[..., Outcome]) -> None:
    """A pipeline of two; a detached one with its id, logs, wait; exec; stop; names that are the job's own."""
    done = job(
        instance,
        f"""
echo hello | docker run -i {IMAGE} tr a-z A-Z | docker run -i {IMAGE} cat
ID=$(docker run -d --name db -e GREETING=hi {IMAGE} sh -c 'echo started; echo bad >&2; sleep 1000')
echo ${{#ID}}
docker exec db sh -c 'echo $GREETING; exit 3'
echo code $?
docker logs db 2>/dev/null
docker stop -t 0 db
docker wait db
docker run --name db {IMAGE} true
echo code $?
docker rm db
docker run --name db {IMAGE} sh -c 'exit 4'
echo code $?
docker wait db
docker rm db
""",
    )

    assert done.exit_status == 0, done.stderr
    assert done.stdout.decode().split() == "HELLO 64 hi code 3 started db 143 code 125 db code 4 4 db".split(), (
        done.stderr
    )


@JOBS
def test_networks_mounts_and_files(instance: Instance, job: Callable[..., Outcome]) -> None:
    """Two find one another by name; a mount is the user's; files go in and out; formats are Docker's."""
    done = job(
        instance,
        f"""
cd $PBS_O_WORKDIR && mkdir -p in && echo data >in/file
docker network create net >/dev/null
docker run -d --name db --network net {IMAGE} sh -c 'echo from db >/tmp/index.html; httpd -f -p 8080 -h /tmp' >/dev/null
sleep 1
docker run --rm --network net {IMAGE} wget -qO- http://db:8080/index.html
docker ps --format '{{{{.Names}}}} {{{{.Status}}}}' | sed 's/ Up .*/ up/'
docker inspect -f '{{{{.State.Running}}}}' db
docker run --rm -v $PWD/in:/data -v $PWD/new:/new -w /data {IMAGE} sh -c 'cat file; pwd; echo made >/new/one'
cat new/one
docker cp in/file db:/tmp/copied
docker exec db cat /tmp/copied
docker cp db:/tmp/index.html got
cat got
docker rm -f db
docker network rm net
docker ps -aq | wc -l
rm -r in new got
""",
    )

    assert done.exit_status == 0, done.stderr
    assert done.stdout.decode().split("\n") == [
        "from db",
        "db up",
        "true",
        "data",
        "/data",
        "made",
        "data",
        "from db",
        "db",
        "net",
        "0",
        "",
    ], done.stderr
