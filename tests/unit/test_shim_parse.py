"""Docker's command line: from words to a command, or to one sentence."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from pbsdock.shim import commands
from pbsdock.shim.commands import Cp, Exec, Images, Inspect, Kill, Login, Logs, NetworkCreate, Ps, Pull, Rm, Run, Stop
from pbsdock.shim.flags import Option, read
from pbsdock.shim.parse import TEXT_LIMIT, WORD_LIMIT, ShimRefusal, parse
from pbsdock.shim.syntax import OFFERED
from pbsdock.shim.vocabulary import refused_commands, refused_options
from tests.support.torque import WORDS


def line(text: str, called_as: str = "docker") -> commands.Command:
    """The command of a line as a shell splits it."""
    return parse(shlex.split(text), WORDS, called_as)


def run(text: str) -> Run:
    """``docker run`` of a line."""
    found = line(f"run {text}")
    assert isinstance(found, Run)
    return found


def refused(text: str, called_as: str = "docker") -> ShimRefusal:
    """The refusal of a line."""
    with pytest.raises(ShimRefusal) as caught:
        line(text, called_as)
    assert "\n" not in caught.value.sentence
    return caught.value


# -- pflag's rules ----------------------------------------------------------------------------------------------------


def test_all_spellings_of_an_option() -> None:
    """Joined, apart, glued and after an equals sign; flags joined, the last with a value."""
    for spelled in ("-e A=B", "-eA=B", "-e=A=B", "--env A=B", "--env=A=B"):
        assert run(f"{spelled} busybox").env == (("A", "B"),)
    joined = run("-itde A=B -w/x busybox")
    assert (joined.interactive, joined.tty, joined.detach, joined.env, joined.workdir) == (
        True,
        True,
        True,
        (("A", "B"),),
        "/x",
    )
    assert run("-it=false busybox").tty is False
    assert (
        'invalid argument "=" for "-e, --env"' in refused("run -e= busybox").sentence
    )  # the sign is the value, as pflag
    assert run("--env-file - busybox").env_files == ("./-",)


def test_a_value_may_look_like_an_option() -> None:
    """An option that has a value takes the next word, whatever it is."""
    assert run("--entrypoint --rm busybox").entrypoint == "--rm"
    assert run("-e --rm busybox").env == (("--rm", None),)


def test_options_end_at_the_image() -> None:
    """What follows is the program's own."""
    found = run("--rm busybox sh -c 'echo $1' --rm -- -e x")
    assert found.argv == ("sh", "-c", "echo $1", "--rm", "--", "-e", "x")
    assert run("--rm -- busybox --rm").argv == ("--rm",)
    assert line("exec -i db psql -U me") == Exec(container="db", argv=("psql", "-U", "me"), interactive=True)
    assert line("rm db -f") == Rm(containers=("db",), force=True)
    assert line("rm -- db -f") == Rm(containers=("db", "-f"))


def test_the_last_value_counts() -> None:
    """As with Docker; nothing is refused for being given twice."""
    found = run("--name aa --name bb --rm --rm=false --memory 1g --memory '' busybox")
    assert (found.name, found.remove, found.memory) == ("bb", False, None)
    assert found.options_given == ("name", "rm", "memory")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("---x", "bad flag syntax: ---x"),
        ("--=x", "bad flag syntax: --=x"),
        ("-y", "unknown shorthand flag: 'y' in -y"),
        ("-iy", "unknown shorthand flag: 'y' in -iy"),
        ("-i=", "unknown shorthand flag: '=' in -i="),
        ("-v", "flag needs an argument: 'v' in -v"),
        ("-iv", "flag needs an argument: 'v' in -iv"),
        ("--volume", "flag needs an argument: --volume"),
        ("--rm=maybe x", 'invalid argument "maybe" for "--rm" flag; use true or false'),
        ("--interactiv x", "unknown flag: --interactiv; did you mean --interactive?"),
        ("--frobnicate x", "unknown flag: --frobnicate; the options are listed by docker run --help"),
        ("-m xx y", 'invalid argument "xx" for "-m, --memory" flag: it is not a size;'),
    ],
)
def test_wrong_options(words: str, sentence: str) -> None:
    """As Docker's client words them, with what to write."""
    refusal = refused(f"run {words}")
    assert refusal.sentence.startswith(sentence)
    assert (refusal.status, refusal.code) == (125, "docker-usage")


def test_letters_of_a_long_word_cost_linear_time() -> None:
    """A word of flags is as long as the kernel lets it be."""
    found = read(["-" + "x" * 131_000], [Option("x", "x")], lambda *_: None, interspersed=True)
    assert len(found.given) == 131_000


# -- run --------------------------------------------------------------------------------------------------------------


def test_everything_run_takes() -> None:
    """One line with all of it."""
    found = run(
        "--name db -d -i -t --rm -e A=1 -e B --env-file e -v /a:/b:ro --mount type=tmpfs,target=/m,tmpfs-size=1k"
        " --tmpfs /t:size=2m -w /w -u 1000:1000 --entrypoint '' --network job --network-alias x --read-only --shm-size 64m"
        " --gpus 2 --init --stop-signal SIGINT --stop-timeout 3 --pull always --platform linux/arm64/v8 -m 1.5g --cpus 1.5"
        " -c 512 --cpuset-cpus 0-3,8 --pids-limit 100 --cidfile c -l k=v -l alone -h host -q --sig-proxy=false"
        " --log-driver none --restart no reg:5000/x@sha256:" + "a" * 64 + " p q"
    )
    expected: dict[str, Any] = {
        "argv": ("p", "q"),
        "name": "db",
        "detach": True,
        "interactive": True,
        "tty": True,
        "remove": True,
        "env": (("A", "1"), ("B", None)),
        "env_files": ("e",),
        "tmpfs": (("/t", 2 << 20), ("/m", 1 << 10)),
        "workdir": "/w",
        "user": "1000:1000",
        "entrypoint": "",
        "network": "job",
        "network_aliases": ("x",),
        "read_only": True,
        "shm_size": 64 << 20,
        "gpus": "2",
        "init": True,
        "stop_signal": "INT",
        "stop_timeout": 3,
        "pull": "always",
        "platform": "linux/arm64/v8",
        "memory": 3 << 29,
        "cpus": 1500,
        "cpu_shares": 512,
        "cpuset": "0-3,8",
        "pids": 100,
        "cidfile": "c",
        "labels": (("k", "v"), ("alone", "")),
        "hostname": "host",
        "quiet": True,
        "sig_proxy": False,
    }
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.image.registry == "reg:5000"
    volume = found.volumes[0]
    assert (volume.source, volume.target, volume.read_only, volume.makes_source) == ("/a", "/b", True, True)


def test_what_is_not_said_is_none() -> None:
    """And Docker's zero is nothing said."""
    plain = run("busybox")
    assert plain == Run(image=plain.image, image_text="busybox")
    for option in ("--memory 0", "--cpus 0", "--pids-limit 0", "--pids-limit -1", "--shm-size 0", "-c 0", "--cpus=''"):
        found = run(f"{option} busybox")
        assert (found.memory, found.cpus, found.pids, found.shm_size, found.cpu_shares) == (None,) * 5


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64", 64),
        ("1b", 1),
        ("2k", 2048),
        ("2KB", 2048),
        ("1.5m", 3 << 19),
        ("1 GiB", 1 << 30),
        ("2T", 2 << 40),
        ("1.m", 1 << 20),
        (".5k", 512),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """As go-units reads them."""
    assert run(f"--memory '{text}' busybox").memory == size


@pytest.mark.parametrize(
    "text", ["x", "-1", "1x", "1w", "1e3", "٣m", "1.2.3g", ".", ".k", "1ki", "9" * 19, "9999999p", "m"]
)
def test_no_sizes(text: str) -> None:
    """Neither words of 4 bytes nor another script's digits."""
    assert "-m, --memory" in refused(f"run --memory={text} busybox").sentence


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("all", "all"),
        ("-1", "all"),
        ("2", "2"),
        ("002", "2"),
        ("device=0", "device=0"),
        ('"device=0,1"', "device=0,1"),
        ("device=0,1", "device=0,1"),
        ("count=2,driver=nvidia,capabilities=compute", "2"),
        ('"capabilities=compute,utility"', "all"),
        ("driver=nvidia", "all"),
        ("device=GPU-3faa8-219", "device=GPU-3faa8-219"),
    ],
)
def test_gpus(text: str, gpus: str) -> None:
    """All, so many, or these."""
    assert run(f"--gpus '{text}' busybox").gpus == gpus


@pytest.mark.parametrize(
    "text", ["x", "foo=1", "driver=amd", "device=0,count=2", "1.5", '"device=0', "options=a", "device=;"]
)
def test_no_gpus(text: str) -> None:
    """What would choose more than which GPUs."""
    assert '"--gpus" flag' in refused(f"run --gpus '{text}' busybox").sentence


@pytest.mark.parametrize(
    ("option", "source", "target", "read_only"),
    [
        ("-v /a:/b", "/a", "/b", False),
        ("-v /a:/b:rw", "/a", "/b", False),
        ("-v /a:/b:ro,z", "/a", "/b", True),
        ("-v /a:/b:delegated", "/a", "/b", False),
        ("-v .:/b", ".", "/b", False),
        ("-v ./x/../y:/b:Z", "./x/../y", "/b", False),
        ("-v ../x:/b", "../x", "/b", False),
        ("--mount type=bind,source=/a,target=/b,readonly", "/a", "/b", True),
        ("--mount type=bind,src=/a,dst=/b,ro=1", "/a", "/b", True),
        ("--mount type=bind,src=/a,destination=/b,readonly=false", "/a", "/b", False),
        ("--mount type=bind,src=./a,dst=/b,consistency=cached,bind-propagation=rprivate", "./a", "/b", False),
        ("""--mount 'type=bind,"source=/a,""b",target=/b'""", '/a,"b', "/b", False),
    ],
)
def test_bind_mounts(option: str, source: str, target: str, read_only: bool) -> None:
    """Both spellings; a relative source keeps its dot for the client's directory."""
    (found,) = run(f"{option} busybox").volumes
    assert (found.source, found.target, found.read_only) == (source, target, read_only)
    assert found.text == shlex.split(option)[1]
    assert found.makes_source == option.startswith("-v")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("-v data:/data", "write -v $TMPDIR/data:/data"),
        ("-v /data", "is an anonymous volume"),
        ("-v /data:ro", "is an anonymous volume"),
        ("-v ~/x:/data", "write $HOME"),
        ("-v /a:b", "not an absolute path"),
        ("-v /a:/", "/ is not a target"),
        ("-v /a:/proc/x", "belongs to the kernel"),
        ("-v /a:/b/../c", "'..'"),
        ("-v /a:/b:xx", "write ro or rw"),
        ("-v /a:/b:rshared", "not shared"),
        ("-v :/b", "has no source"),
        ("-v /a:/b:c:d", "too many colons"),
        ("-v /a:/b -v /c:/b/", "mounted once"),
        ("-v /a:/b --tmpfs /b", "mounted once"),
        ("-v /var/run/docker.sock:/var/run/docker.sock", "root on the node"),
        ("-v /run//docker.sock:/x", "root on the node"),
        ("-v /run/x/../docker.sock:/x", "root on the node"),
        ("--mount type=bind,src=/run/containerd/containerd.sock,dst=/x", "root on the node"),
        ("--mount type=volume,src=a,dst=/b", "write type=bind,source=PATH,target=/b"),
        ("--mount dst=/b", "volume of the engine"),
        ("--mount type=npipe,src=a,dst=/b", "has the type 'npipe'"),
        ("--mount type=bind,src=a,dst=/b", "not absolute"),
        ("--mount type=bind,src=/a,dst=/b,volume-nocopy", "'volume-nocopy'"),
        ("--mount type=bind,src=/a,dst=/b,bind-propagation=shared", "bind-propagation"),
        ("--mount type=bind,src=/a,dst=/b,readonly=x", "neither true nor false"),
        ("--mount type=bind,src=/a,dst", "'dst', which is not KEY=VALUE"),
        ("--mount type=bind,dst=/a", "has no source"),
        ("""--mount 'type=bind,"src=/a'""", "not closed"),
        ("""--mount 'type=bind,"src=/a"x'""", "inside a field"),
        ("--mount type=tmpfs,dst=/a,tmpfs-size=x", "has the size 'x'"),
        ("--tmpfs a", "not an absolute path"),
        ("--tmpfs /a:uid=0", "write PATH or PATH:size=SIZE"),
        ("--tmpfs /sys/x", "belongs to the kernel"),
    ],
)
def test_mounts_that_are_not_taken(option: str, said: str) -> None:
    """Each with what to write instead."""
    assert said in refused(f"run {option} busybox").sentence


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--privileged", "more rights on the node"),
        ("--pid host", "other users' work"),
        ("--ipc host", "--shm-size"),
        ("--userns host", "other users' work"),
        ("--cap-add SYS_ADMIN", "no capabilities"),
        ("--device /dev/kvm", "qsub -l nodes=1:gpus=N"),
        ("--runtime nvidia", "--gpus"),
        ("--security-opt seccomp=unconfined", "security profile"),
        ("-p 80:80", "docker network create NAME"),
        ("-P", "docker network create NAME"),
        ("-dP", "docker network create NAME"),
        ("--volumes-from x", "-v SOURCE:TARGET"),
        ("--memory-swap 1g", "qsub -l mem=SIZE"),
        ("--ulimit nofile=1", "ulimit in the script"),
        ("--restart always", "write a loop"),
        ("--log-driver syslog", "json-file"),
        ("--detach-keys a", "ctrl-p ctrl-q"),
        ("--cgroupns host", "leave it out"),
        ("-a stdout", ">/dev/null"),
        ("--link db", "--network NAME"),
        ("--use-api-socket", "root on the node"),
        ("--network a --network b", "on one network"),
    ],
)
def test_what_a_job_does_not_have(option: str, said: str) -> None:
    """Refused with the job's own way, and the status of docker run."""
    refusal = refused(f"run {option} busybox")
    assert " is not available in a job: " in refusal.sentence
    assert said in refusal.sentence
    assert (refusal.status, refusal.code) == (125, "docker-not-offered")


def test_what_holds_already_is_taken() -> None:
    """Options that ask for what a job's containers have anyway, and those that are turned off."""
    found = run(
        "--cap-drop ALL --security-opt no-new-privileges --privileged=false --oom-kill-disable=false --ipc private"
        " --no-healthcheck --disable-content-trust --annotation a=b --detach-keys ctrl-p,ctrl-q --publish-all=false busybox"
    )
    assert found.image_text == "busybox"


@pytest.mark.parametrize(
    ("text", "network", "aliases"),
    [
        ("--network host", "host", ()),
        ("--net=none", "none", ()),
        ("--network container:db", "container:db", ()),
        ("--network name=job,alias=a,alias=b", "job", ("a", "b")),
        ("--network job --net-alias a", "job", ("a",)),
    ],
)
def test_networks(text: str, network: str, aliases: tuple[str, ...]) -> None:
    """All spellings."""
    found = run(f"{text} busybox")
    assert (found.network, found.network_aliases) == (network, aliases)


@pytest.mark.parametrize(
    "text",
    [
        "--network container:",
        "--network a/b",
        "--network name=a,ip=1.2.3.4",
        "--network-alias a",
        "--network none --network-alias a",
    ],
)
def test_no_networks(text: str) -> None:
    """Addresses are the site's; a name needs a network."""
    assert "network" in refused(f"run {text} busybox").sentence


def test_too_many_of_a_kind() -> None:
    """A container has as many mounts and variables as a job's own may have."""
    mounts = " ".join(f"-v /a:/b{number}" for number in range(129))
    assert "more than 128 times" in refused(f"run {mounts} busybox").sentence
    variables = " ".join(f"-e A{number}=1" for number in range(1025))
    assert "more than 1024 times" in refused(f"run {variables} busybox").sentence


def test_too_long_a_line() -> None:
    """Before anything of it is read."""
    for words in (["run"] * (WORD_LIMIT + 1), ["run", "x" * TEXT_LIMIT]):
        with pytest.raises(ShimRefusal, match="the command line is too long"):
            parse(words, WORDS)


def test_a_nul_is_no_word() -> None:
    """The words come from a client that is a user's, and no program gets one."""
    for words in (["run", "busybox", "a\0b"], ["run", "-e", "A=\0", "busybox"], ["\0"]):
        with pytest.raises(ShimRefusal, match="holds a NUL"):
            parse(words, WORDS)


# -- other commands ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("ps", Ps()),
        ("container ls -aq --no-trunc", Ps(all=True, quiet=True, no_trunc=True)),
        ("ps -n 3 -l --filter name=a -f 'Label = x'", Ps(last=3, latest=True, filters=(("name", "a"), ("label", "x")))),
        ("ps --format '{{.ID}}'", Ps(format="{{.ID}}")),
        ("images --digests busybox", Images(digests=True, reference="busybox")),
        ("image ls -q", Images(quiet=True)),
        ("logs -fn 10 db", Logs(container="db", follow=True, tail=10)),
        ("logs --tail all db", Logs(container="db")),
        ("logs --tail -1 --timestamps=false db", Logs(container="db")),
        ("wait a b", commands.Wait(containers=("a", "b"))),
        ("stop a b -t 3 -s INT", Stop(containers=("a", "b"), seconds=3, signal="INT")),
        ("stop --time -1 a", Stop(containers=("a",), seconds=-1)),
        ("kill a", Kill(containers=("a",), signal="KILL")),
        ("kill -s 10 a", Kill(containers=("a",), signal="USR1")),
        ("kill -s sigrtmin+3 a", Kill(containers=("a",), signal="RTMIN+3")),
        ("rm -fv a", Rm(containers=("a",), force=True, volumes=True)),
        ("inspect -f '{{.Id}}' a b", Inspect(names=("a", "b"), format="{{.Id}}")),
        ("inspect --type image a", Inspect(names=("a",), type="image")),
        ("container inspect a", Inspect(names=("a",), type="container")),
        ("image inspect a", Inspect(names=("a",), type="image")),
        ("cp db:/x .", Cp(container="db", direction="out", source="/x", target=".")),
        (
            "cp -aL ./a:b db:/y",
            Cp(container="db", direction="in", source="./a:b", target="/y", archive=True, follow_link=True),
        ),
        ("cp /a:b db:y", Cp(container="db", direction="in", source="/a:b", target="y")),
        ("login -u me -p pw reg:5000", Login(registry="reg:5000", user="me", password="pw")),
        ("login -u me --password-stdin", Login(user="me", password_stdin=True)),
        ("logout", commands.Logout()),
        (
            "network create --internal --label a=b -d bridge net",
            NetworkCreate(name="net", internal=True, labels=(("a", "b"),)),
        ),
        ("network rm a b -f", commands.NetworkRm(names=("a", "b"), force=True)),
        ("network ls -q --filter driver=bridge", commands.NetworkLs(quiet=True, filters=(("driver", "bridge"),))),
        ("network list --no-trunc", commands.NetworkLs(no_trunc=True)),
        ("network inspect -v a", commands.NetworkInspect(names=("a",))),
        ("version -f json", commands.Version(format="json")),
        ("system info", commands.Info()),
        ("-D -l debug --context default info -f x", commands.Info(format="x")),
    ],
)
def test_commands(text: str, command: commands.Command) -> None:
    """Each with its options and spellings."""
    assert line(text) == command


def test_pull() -> None:
    """The name as written, and what it stands for."""
    found = line("pull -q --platform linux/amd64 busybox")
    assert isinstance(found, Pull)
    assert (found.image.canonical, found.image_text, found.quiet) == (
        "docker.io/library/busybox:latest",
        "busybox",
        True,
    )
    refusal = refused("pull Busybox")
    assert refusal.status == 1
    assert "capital letters" in refusal.sentence
    assert refused("run sha256:" + "a" * 64).sentence.endswith("name its repository, with @sha256:… to pin it")


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("frob", 1, "unknown command: docker frob; the commands are listed by docker --help"),
        ("runn busybox", 1, "did you mean docker run?"),
        ("container rn x", 1, "unknown command: docker container rn; did you mean"),
        ("create busybox", 125, "write docker run -d"),
        ("compose -f x up", 1, "docker network create"),
        ("network connect a b", 1, "docker network connect is not available"),
        ("system prune -f", 1, "docker system prune is not available"),
        ("volume create x", 1, "docker volume is not available"),
        ("help build", 1, "docker build is not available"),
        ("build --help", 1, "docker build is not available"),
        ("run", 1, "'docker run' requires at least 1 argument; its usage is: docker run [OPTIONS] IMAGE"),
        ("exec a", 1, "'docker exec' requires at least 2 arguments"),
        ("pull a b", 1, "'docker pull' requires 1 argument;"),
        ("images a b", 1, "'docker images' requires at most 1 argument;"),
        ("container ls x", 1, "'docker container ls' accepts no arguments;"),
        ("kill -s FOO a", 125, "it is not a signal"),
        ("kill -s 99 a", 125, "it is not a signal"),
        ("ps --filter foo=1", 1, "invalid filter 'foo'; the filters are"),
        ("ps --filter status=up", 1, "is none of created, running"),
        ("ps --filter 'name=(a+)+$'", 1, "is not part of a name"),
        ("images " + "x" * 513, 1, "at most 512 are taken"),
        ("cp - db:/x", 1, "tar archive"),
        ("cp db: /x", 1, "needs a path on either side"),
        ("network create a/b", 1, "is not a network's name"),
        ("network create -d overlay a", 125, "a bridge on its node"),
        ("login -p x --password-stdin -u me", 1, "conflicting options"),
        ("-H tcp://x ps", 125, "unset DOCKER_HOST"),
        ("--tls ps", 125, "unset DOCKER_HOST"),
        ("--config x ps", 125, "your own file"),
        ("--context other ps", 125, "one engine"),
        ("-l loud ps", 125, "unable to parse logging level"),
        ("ps -s", 125, "docker exec NAME du"),
    ],
)
def test_other_refusals(text: str, status: int, said: str) -> None:
    """With Docker's own exit status."""
    refusal = refused(text)
    assert said in refusal.sentence
    assert refusal.status == status


def test_no_sentence_has_an_open_place() -> None:
    """The manager's words are filled in, and every sentence can stand behind the refusal's own."""
    for name, why in (
        *refused_commands().items(),
        *(pair for each in ("", *OFFERED) for pair in refused_options(each).items()),
    ):
        said = why.format(WORDS)
        assert said, name
        assert not re.search(r"[{}]", said), name
        assert not said.endswith("."), name
        assert "Torque" not in why, name
        assert "qsub" not in why, name


def test_help_lists_what_is_refused() -> None:
    """With the reason."""
    found = line("run --help")
    assert isinstance(found, commands.Help)
    assert re.search(r"^  --privileged +a job never gets more rights", found.text, re.MULTILINE)
    assert "--net " not in found.text


# -- programs that are not docker -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        (
            "podman",
            "run --rm busybox ls",
            "write docker instead of it, with the same options: docker run --rm busybox ls",
        ),
        ("/usr/bin/nerdctl", "ps", "docker ps"),
        ("singularity", "exec docker://busybox:1 ls -l", "write: docker run --rm -i busybox:1 ls -l"),
        (
            "apptainer",
            "exec -B /d,/x:/y:ro --nv --pwd /w docker://b ls",
            "docker run --rm -i -v /d:/d -v /x:/y:ro --gpus all -w /w b ls",
        ),
        ("singularity", "exec --env A=1,B=2 --home /h docker://b x", "docker run --rm -i -e A=1 -e B=2 b x"),
        ("singularity", "shell docker://b", "docker run --rm -it b"),
        ("singularity", "pull x.sif docker://b:2", "write: docker pull b:2"),
        ("singularity", "exec x.sif ls", "not from files"),
        ("singularity", "exec library://x ls", "from registries alone"),
        ("singularity", "build x.sif x.def", "docker run --rm IMAGE COMMAND"),
        ("apptainer", "", "docker run --rm IMAGE COMMAND"),
        ("singularity", "exec --bind", "docker run"),
        ("docker-compose", "up", "docker network create"),
    ],
)
def test_other_programs(program: str, words: str, said: str) -> None:
    """Each points to docker, with the line where it can be told."""
    refusal = refused(words, called_as=program)
    assert said in refusal.sentence
    assert (refusal.status, refusal.code) == (125, "docker-not-offered")


# -- what other programs call -----------------------------------------------------------------------------------------

NEXTFLOW = (
    'run -i --cpus 2.0 --memory 4096m -e "NXF_TASK_WORKDIR" -v /scratch/w:/scratch/w -w /scratch/w --entrypoint /bin/bash'
    " --name nxf-AbC123 quay.io/x/y:1 -c '/bin/bash -ue /scratch/w/.command.sh'",
    "run -i --cpu-shares 2048 --memory 4096m -e NXF_DEBUG -v /s:/s -w /s -u 1000:1000 --name nxf-a b:1 /bin/bash -ue x",
    "run -i -u 1000 -e HOME=/home/a -v /etc/passwd:/etc/passwd:ro -v /home/a:/home/a -w /w --name nxf-a b:1 x",
    "rm nxf-a",
    "stop nxf-a",
    "kill -s TERM nxf-a",
)
CROMWELL = (
    "run --cidfile /w/execution/docker_cid -i --user root --entrypoint /bin/bash -v /w:/cromwell-executions/w:delegated"
    " ubuntu:22.04 /cromwell-executions/w/execution/script",
    "run --cidfile /w/docker_cid --rm -i --entrypoint /bin/bash -v /w:/c ubuntu@sha256:" + "b" * 64 + " /c/script",
    "wait " + "c" * 64,
    "rm " + "c" * 64,
    "kill " + "c" * 64,
)
CWLTOOL = (
    "run -i --mount=type=bind,source=/tmp/a,target=/var/spool/cwl --mount=type=bind,source=/tmp/b,target=/tmp"
    " --mount=type=bind,source=/d/in.txt,target=/var/lib/cwl/stg/in.txt,readonly --workdir=/var/spool/cwl"
    " --read-only=true --net=none --log-driver=none --user=1000:1000 --rm --cidfile=/w/20200101.cid --env=TMPDIR=/tmp"
    " --env=HOME=/var/spool/cwl --memory=256m --cpus=1 --gpus=all docker.io/debian:stable cat /var/lib/cwl/stg/in.txt",
    "run -i --volume=/tmp/a:/var/spool/cwl:rw --volume=/d/in:/in:ro --workdir=/var/spool/cwl --read-only=true"
    " --net=none --user=1000:1000 --rm --env=TMPDIR=/tmp --env=HOME=/var/spool/cwl debian cat /in",
    "version",
    "images --no-trunc --all",
    "inspect debian:stable",
    "pull debian:stable",
)


@pytest.mark.parametrize("text", [*NEXTFLOW, *CROMWELL, *CWLTOOL])
def test_lines_of_workflow_engines(text: str) -> None:
    """As Nextflow, Cromwell and cwltool write them."""
    assert line(text)
