"""The command lines that workflow tools and shell scripts make, in jobs, beside Docker's own client."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pbsdock.trial import Outcome
from tests.conftest import IMAGE, Instance
from tests.engine.test_shim import bare, contained
from tests.support.shim_same import run_in_job, same

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("images")]
JOBS = pytest.mark.parametrize("job", [bare, contained])

SHELL = [
    'echo data >file; docker run --rm -v "$PWD":/work -w /work {image} sh -c "cat file; pwd; echo made >new"; cat new',
    'docker run --rm -v "$PWD:/work:ro" -w /work {image} sh -c "echo no >other"',
    'docker run --rm -u $(id -u):$(id -g) -v "$PWD":/work {image} touch /work/mine; [ $(stat -c %u mine) = $(id -u) ] && echo mine',
    "docker run --rm -v $PWD/made/here:/d {image} ls -d /d; ls -d made/here",
    "docker run --rm --mount type=bind,source=$PWD/absent,target=/d {image} ls /d",
    "docker run -i --rm {image} sh <<'END'\necho from $0; exit 4\nEND",
    "mkdir -p t/u && echo x >t/u/f && tar cf - t | docker run -i --rm {image} sh -c 'cd /tmp && tar xf - && mv t s && tar cf - s' | tar tf - | sort",
    "docker run --rm {image} sh -c 'echo y; echo y; sleep 0.2; echo y' 2>/dev/null | head -1",
    "docker run --rm {image} sh -c 'head -c 3000000 /dev/zero' | wc -c",
    "seq 6 | xargs -P4 -I@ docker run --rm {image} echo @ | sort",
    "printf '1\\n2\\n3\\n' | while read n; do docker run --rm {image} echo n$n; done",
    "A=$(docker run --rm {image} /bin/sh -c 'set -e; \\\n echo one && \\\n echo two'); echo \"$A\"",
    "docker run --rm {image} sh -c 'echo out; sleep 0.3; echo err >&2; exit 3' 2>&1",
    "docker run --rm {image} sh -c 'sleep 1 & kill -9 $!; wait $! 2>/dev/null' 2>/dev/null",
    "docker run --rm {image} nosuchprogram",
    "docker run --rm {image} /tmp",
    "docker run --rm {image} /bin/absent",
    "docker run --rm -w /new/dir {image} pwd",
    "docker run --rm --nosuchflag {image} true",
    "docker run --rm -Y {image} true",
    "docker run",
    "docker nosuch",
    "docker run -it --rm {image} true",
    "FOO=bar docker run --rm -e FOO -e BAR -e BAZ= -e 'Q=a b' {image} sh -c 'echo $FOO ${BAR-unset} ${BAZ-unset} \"$Q\"'",
    "printf '# c\\nA=1\\nB=x y\\n' >e; docker run --rm --env-file e -e A=2 {image} sh -c 'echo $A $B'",
    "docker run --rm --env-file absent {image} true",
    "docker run --rm --entrypoint sh {image} -c 'echo $0 $1' a b",
    "docker run --rm --entrypoint '' {image} echo hi",
    "docker run --rm -h box {image} hostname",
    "docker run --rm --read-only {image} sh -c 'echo x >/f'",
    "docker run --rm --read-only --tmpfs /t {image} sh -c 'echo x >/t/f; cat /t/f'",
    'docker run --rm --shm-size 8m {image} sh -c \'df -m /dev/shm | tail -1 | tr -s " " | cut -d" " -f2\'',
    "docker run --rm --network none {image} sh -c 'ls /sys/class/net'",
    "docker run --rm {image} sh -c 'echo $PATH; echo $FROM_IMAGE; pwd'",
    "docker run --rm -t {image} sh -c 'test -t 1 && echo terminal'",
    "docker run --rm {image} sh -c 'test -t 1 || echo none; cat; echo end' <e",
    "docker run --rm {image} cat </dev/null",
    "docker run --rm {image} -c 2>/dev/null",
    "docker run --quiet --pull never --rm {image} echo quiet",
    "docker run --pull never --rm nosuch.example/image:1 true 2>/dev/null",
    "docker run --rm --cidfile id {image} true; wc -c <id; docker run --rm --cidfile id {image} true",
    "docker container run --rm {image} echo long",
    "docker --version >/dev/null && docker version >/dev/null && docker info >/dev/null && echo told",
]


@JOBS
def test_shell_idioms(instance: Instance, job: Callable[..., Outcome], tmp_path: Path) -> None:
    """Each prints, says and ends as with Docker."""
    same(instance, job, SHELL, tmp_path)


CONTAINERS = [
    "docker run -d --name {own}-db {image} sh -c 'trap \"exit 5\" TERM; echo up; echo bad >&2; sleep 1; touch /tmp/ready; while :; do sleep 0.1; done' | wc -c",
    "until docker exec {own}-db test -e /tmp/ready; do sleep 0.2; done; echo ready",
    "docker exec -i {own}-db sh -c 'cat; exit 3' <<END\nhello\nEND",
    "docker exec -e A=b -w /tmp {own}-db sh -c 'echo $A; pwd'",
    "docker exec -d {own}-db touch /tmp/detached && sleep 0.5 && docker exec {own}-db ls /tmp/detached",
    "docker exec -it {own}-db true",
    "docker logs {own}-db",
    "docker inspect --format '{{.State.Status}} {{.State.Running}} {{.State.ExitCode}} {{.Name}}' {own}-db",
    "docker inspect -f '{{json .State.Running}} {{len .Id}} {{.Path}} {{index .Args 0}}' {own}-db",
    'docker inspect {own}-db | grep -c \'"Status": "running"\'',
    "docker ps -q --filter name={own}-db | wc -l",
    "docker ps -q --no-trunc --filter name=^{own}-db$ | wc -c",
    "docker ps --filter name={own} --format '{{.Names}} {{.Image}} {{.State}}' | sed 's/busybox.*:1/IMAGE/'",
    "docker ps -a --filter name={own} --filter status=exited --format '{{.Names}}'",
    "docker run --name {own}-db {image} true",
    "docker rm {own}-db",
    "echo in >f; docker cp f {own}-db:/tmp/g && docker exec {own}-db cat /tmp/g",
    "docker cp {own}-db:/tmp/g h && cat h",
    "mkdir -p d/e && echo x >d/e/f; docker cp d {own}-db:/tmp/ && docker exec {own}-db cat /tmp/d/e/f; docker cp {own}-db:/tmp/d/. out; cat out/e/f",
    "docker cp {own}-db:/tmp/absent .",
    "docker stop {own}-db",
    "docker wait {own}-db",
    "docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' {own}-db",
    "docker logs {own}-db 2>/dev/null",
    "docker exec {own}-db true",
    "docker kill {own}-db",
    "docker ps -a --filter name={own} --filter status=exited --format '{{.Names}}'",
    "docker rm {own}-db",
    "docker rm {own}-db",
    "for word in inspect logs wait stop kill; do docker $word {own}-none; echo $?; done",
    "docker exec {own}-none true; echo $?; docker rm -f {own}-none; echo $?; docker cp {own}-none:/x .; echo $?",
    "docker inspect --type=image {own}none; echo $?; docker image inspect {own}none; echo $?",
    "docker image inspect {image} >/dev/null && docker inspect --type=image {image} >/dev/null && docker images -q {image} | wc -l",
    "docker inspect --type=image --format '{{len .Id}} {{index .RepoTags 0}}' {image} | sed 's/ .*busybox/ busybox/'",
    "docker images --format '{{.Repository}}:{{.Tag}}' {image} | sed 's/.*busybox/busybox/'",
    "docker run -d --name {own}-a {image} sh -c 'sleep 0.5; exit 2' >/dev/null; docker run -d --name {own}-b {image} sh -c 'exit 3' >/dev/null; docker wait {own}-a {own}-b; docker rm {own}-a {own}-b",
    "docker run -d --name {own}-f {image} sh -c 'for i in 1 2 3; do echo $i; sleep 0.3; done' >/dev/null; docker logs -f {own}-f; docker rm {own}-f",
    "ID=$(docker run -d {image} sleep 100); docker ps -q --filter id=$ID | wc -l; docker kill $ID >/dev/null; docker wait $ID; docker rm $ID | wc -c",
    "ID=$(docker run -d {image} sleep 100); docker rm -f $ID | wc -c; docker inspect $ID",
    "docker run -d --rm --name {own}-r {image} sleep 100 >/dev/null; docker stop -t 0 {own}-r; sleep 1; docker ps -aq --filter name={own}-r | wc -l",
    "docker run -d --name {own}-k {image} sh -c 'trap \"exit 7\" USR1; while :; do sleep 0.1; done' >/dev/null; sleep 0.3; docker kill -s USR1 {own}-k; docker wait {own}-k; docker rm {own}-k",
    "docker run --name {own}-x {image} sh -c 'echo last; exit 6'; docker wait {own}-x; docker inspect -f '{{.State.ExitCode}}' {own}-x; docker rm {own}-x",
    "docker run -d --name {own}-e {image} nosuchprogram | wc -c; docker rm -f {own}-e >/dev/null 2>&1",
    "docker network create {own}-net | wc -c; docker network ls -q --filter name={own}-net | wc -l; docker network create {own}-net; docker network rm {own}-net; docker network rm {own}-net 2>/dev/null; docker network inspect {own}-net 2>/dev/null",
    "docker network create {own}-n >/dev/null; docker run -d --name {own}-w --network {own}-n {image} sh -c 'echo from w >/tmp/i; httpd -f -p 8080 -h /tmp' >/dev/null; docker run -d --name {own}-s --network {own}-n --network-alias other {image} sleep 100 >/dev/null; docker exec {own}-s sh -c 'until wget -qO- http://{own}-w:8080/i; do sleep 0.1; done'; docker run --rm --network container:{own}-w {image} sh -c 'until wget -qO- http://127.0.0.1:8080/i; do sleep 0.1; done'; docker rm -f {own}-w {own}-s; docker network rm {own}-n",
]


@JOBS
def test_containers_and_their_names(instance: Instance, job: Callable[..., Outcome], tmp_path: Path) -> None:
    """What scripts do with containers that run beside them, as with Docker."""
    same(instance, job, CONTAINERS, tmp_path)


# The wrapper that Nextflow writes for a task (.command.run, of a task with docker.enabled), shortened.
NEXTFLOW = """
mkdir -p work/7f/caf71 && cd work/7f/caf71
cat >.command.sh <<'END'
echo "made by $0" >out.txt; cat out.txt; exit ${1:-0}
END
cat >.command.run <<'END'
set -u
NXF_TASK_WORKDIR=$PWD; export NXF_TASK_WORKDIR
NXF_BOXID={own}-nxf-$(head -c 9 /dev/urandom | base64 | tr +/ 0A | tr -d '\\r\\n')
on_exit() { s=$?; printf -- $s >.exitcode; docker rm $NXF_BOXID >/dev/null 2>&1 || true; exit $s; }
on_term() { docker stop $NXF_BOXID; }
trap on_exit EXIT
trap on_term TERM INT USR2
docker run -i --cpu-shares 1024 --memory 64m -e "NXF_TASK_WORKDIR" -v ${PWD%/7f/*}:${PWD%/7f/*} -w "$NXF_TASK_WORKDIR" --name $NXF_BOXID {image} /bin/sh -ue $PWD/.command.sh "$@" >.command.out 2>.command.err </dev/null &
pid=$!
wait $pid || { s=$?; wait $pid; exit $s; }
END
"""
# The submit-docker and kill-docker of Cromwell's reference.conf.
CROMWELL = """
mkdir -p execution; D=execution/docker_cid; rm -f $D
echo 'echo from cromwell; exit 9' >execution/script
docker run --cidfile $D -i --entrypoint /bin/sh -v $PWD:/cromwell-executions/w:delegated {image} /cromwell-executions/w/execution/script
rc=$(docker wait `cat $D`)
docker rm `cat $D`
exit $rc
"""
CROMWELL_KILL = """
D=docker_cid
(sleep 1; docker kill `cat $D`) >/dev/null &
docker run --cidfile $D -i --entrypoint /bin/sh -v $PWD:/cromwell-executions/w:delegated {image} -c 'sleep 100'
rc=$(docker wait `cat $D`); docker rm `cat $D`; exit $rc
"""
# What cwltool runs for a CommandLineTool with a DockerRequirement.
CWLTOOL = """
mkdir -p o t i; echo data >i/in.txt; printf 'A,B' >/dev/null
docker inspect {image} >/dev/null || exit 98
docker run -i --mount=type=bind,source=$PWD/o,target=/zRxgJM --mount=type=bind,source=$PWD/t,target=/tmp \
 --mount=type=bind,source=$PWD/i/in.txt,target=/var/lib/cwl/stg1/in.txt,readonly --workdir=/zRxgJM --read-only=true --net=none \
 --log-driver=none --user=$(id -u):$(id -g) --rm --cidfile=$PWD/20261126.cid --env=TMPDIR=/tmp --env=HOME=/zRxgJM {image} \
 sh -c 'cat /var/lib/cwl/stg1/in.txt; echo $HOME $TMPDIR; pwd; touch made /tmp/f' >o/stdout
echo $?; ls o; cat o/stdout; wc -c <20261126.cid
"""
TOOLS = [
    NEXTFLOW + "sh .command.run; echo $?; cat .command.out .exitcode out.txt",
    NEXTFLOW.replace("exit ${1:-0}", "exit 3") + "sh .command.run; echo $?; cat .exitcode",
    CROMWELL,
    CROMWELL_KILL,
    CWLTOOL,
    # miniwdl's podman backend with another program's name
    "mkdir -p w; docker run --rm --workdir /mnt/miniwdl_task_container/work --cpus 1 --memory 67108864 -v $PWD/w:/mnt/miniwdl_task_container/work"
    " {image} /bin/sh -c 'echo wdl >f; pwd'; cat w/f",
    # Makefiles and CI: a container kept for several commands
    "docker run -d --name {own}-ci -v $PWD:/src -w /src {image} sleep 1000 >/dev/null; docker exec {own}-ci sh -c 'echo built >artefact';"
    " docker exec -w / {own}-ci pwd; docker rm -f {own}-ci >/dev/null; cat artefact",
]


@JOBS
def test_lines_of_workflow_tools(instance: Instance, job: Callable[..., Outcome], tmp_path: Path) -> None:
    """As their public sources have them."""
    same(instance, job, TOOLS, tmp_path, resources="nodes=1:ppn=1,mem=1gb")


SIGNALS = [
    # a signal for the client is one for the program
    "docker run --rm {image} sh -c 'trap \"echo caught; exit 5\" TERM; echo up; while :; do sleep 0.1; done' 2>/dev/null & p=$!; sleep 1.5; kill -TERM $p; wait $p",
    "docker run --rm {image} sh -c 'trap \"echo caught; exit 6\" INT; while :; do sleep 0.1; done' & p=$!; sleep 1.5; kill -INT $p; wait $p",
    "docker run -d --name {own}-t --stop-signal USR1 {image} sh -c 'trap \"exit 8\" USR1; while :; do sleep 0.1; done' >/dev/null; sleep 0.5; docker stop -t 5 {own}-t; docker wait {own}-t; docker rm {own}-t",
    "docker run -d --name {own}-i {image} sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' >/dev/null; sleep 0.5; docker stop -t 1 {own}-i; docker wait {own}-i; docker rm {own}-i",
]


@JOBS
def test_signals(instance: Instance, job: Callable[..., Outcome], tmp_path: Path) -> None:
    """Passed on, or kept from the program, as with Docker."""
    same(instance, job, SIGNALS, tmp_path)


@pytest.mark.parametrize("variables", [{}, {"PBSDOCK": IMAGE}], ids=["bare", "contained"])
def test_a_terminal_of_an_interactive_job(instance: Instance, variables: dict[str, str]) -> None:
    """docker run -it has its size and its name; control-C is the program's, and the shell goes on."""
    instance.start_agent()
    trial = instance.begin(None, variables=variables, shell="/bin/sh", window=(31, 97))
    terminal = trial.terminal
    assert terminal is not None
    seen, at = b"", 0

    def await_text(text: bytes) -> None:
        nonlocal seen, at
        deadline = time.monotonic() + 30
        while (found := seen.find(text, at)) < 0:
            assert time.monotonic() < deadline, seen
            if select.select([terminal], [], [], 0.1)[0]:
                seen += os.read(terminal, 65536)
        at = found + len(text)

    os.write(terminal, f"docker run -it --rm {IMAGE} sh\r".encode())
    await_text(b"/ $ ")
    os.write(terminal, b"stty size; tty; sleep 1000; echo sl''ept $?\r")
    await_text(b"31 97")
    await_text(b"/dev/")
    time.sleep(0.3)
    os.write(terminal, b"\x03")
    await_text(b"/ $ ")
    os.write(terminal, b"exit 6\r")
    await_text(b"\n")
    await_text(b"$ ")  # of the job's own shell
    os.write(terminal, b"echo co''de $?; exit 7\r")
    await_text(b"code 6")
    done = trial.finish(trial.wait())

    assert done.exit_status == 7
    assert b"slept 0" not in seen


@JOBS
def test_the_umask_is_the_commands_own(instance: Instance, job: Callable[..., Outcome]) -> None:
    """Unlike Docker's, and the same for what is detached: who shares files with a group goes on doing so."""
    lines = [
        "umask 027; docker run --rm -v $PWD:/d {image} touch /d/a; stat -c %a a",
        "umask 002; docker run -d --name umask -v $PWD:/d {image} sh -c 'touch /d/b; sleep 100' >/dev/null; sleep 1; stat -c %a b",
        "umask 077; docker exec umask touch /d/c; docker exec -d umask touch /d/e; sleep 1; stat -c %a c e; docker rm -f umask",
    ]
    found, _ = run_in_job(instance, job, [line.replace("{image}", IMAGE) for line in lines])

    assert [told.stdout.split() for told in found] == [["640"], ["664"], ["600", "600", "umask"]], found


@JOBS
def test_no_engine_for_programs_that_speak_its_api(instance: Instance, job: Callable[..., Outcome]) -> None:
    """Its socket is not the user's; DOCKER_HOST leads the command nowhere else, and -H is refused with what to do."""
    lines = [
        "[ -r /var/run/docker.sock ] || [ -w /var/run/docker.sock ] || echo closed",
        f"DOCKER_HOST=tcp://127.0.0.1:1 docker run --rm {IMAGE} echo here",
        "docker -H tcp://127.0.0.1:1 ps 2>&1",
        "docker compose up 2>&1",
    ]
    found, _ = run_in_job(instance, job, lines)

    assert [told.stdout for told in found[:2]] == ["closed\n", "here\n"]
    assert "leave it out, and unset DOCKER_HOST" in found[2].stdout
    assert "docker network create" in found[3].stdout
    assert (found[2].code, found[3].code) == (125, 1)
