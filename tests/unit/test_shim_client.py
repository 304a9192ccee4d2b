"""Every command and option of Docker's own clients on this machine is read, or refused in a sentence of its own."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

import pytest

from pbsdock.shim import vocabulary
from pbsdock.shim.commands import Help, Version
from pbsdock.shim.parse import ShimRefusal, parse
from pbsdock.shim.syntax import GLOBAL, GROUPS, OFFERED, SPELLINGS
from tests.support.real_client import clients, run_client
from tests.support.torque import WORDS

_COMMAND = re.compile(r"^  ([a-z][a-z0-9-]*)\*? +\S")
_OPTION = re.compile(r"^ +(?:-([A-Za-z]), )?--([a-z0-9-]+)(?: ([a-z0-9-]+))?(?:   *\S|$)")
# Options Docker's clients have and do not list, newer ones among them.
_NEWER = {
    "run": ("annotation", "health-start-interval", "net", "net-alias", "dns-opt", "quiet", "pull", "use-api-socket"),
    "pull": ("quiet", "all-tags"),
    "stop": ("time", "timeout", "signal"),
    "images": ("tree",),
    "network rm": ("force",),
    "cp": ("quiet",),
}
_NEWER_COMMANDS = ("compose up", "buildx build", "buildx bake", "scout quickview", "model run", "container remove")
# What every option with a value is tried with; a value that is wrong is fine, an option that is unknown is not.
_UNKNOWN = ("unknown flag", "unknown shorthand flag", "unknown command")
# What 20.10 leaves to the engine to judge.
_LEFT_TO_THE_ENGINE = ("run -v /a:/b:/c:d busybox", "run --pull sometimes b")
CLIENTS = clients()


@functools.cache
def _help(client: str, command: str) -> tuple[tuple[str, ...], tuple[tuple[str, str, str], ...]]:
    """(subcommands, options as (short, long, value's kind)) of a command, as its --help lists them."""
    commands: list[str] = []
    options: list[tuple[str, str, str]] = []
    inside = ""
    for line in run_client(client, *command.split(), "--help")[1].splitlines():
        if line and not line.startswith(" "):
            inside = "commands" if line.endswith("ommands:") else "options" if line.endswith("ptions:") else ""
        elif inside == "commands" and (match := _COMMAND.match(line)):
            commands.append(match[1])
        elif inside == "options" and (match := _OPTION.match(line)):
            options.append((match[1] or "", match[2], match[3] or ""))
    return tuple(commands), tuple(options)


def _commands(client: str, command: str = "") -> Iterator[str]:
    for name in _help(client, command)[0]:
        full = f"{command} {name}".strip()
        yield full
        yield from _commands(client, full)


def _refusal(*words: str) -> ShimRefusal | None:
    try:
        parse(words, WORDS)
    except ShimRefusal as refusal:
        return refusal
    return None


@pytest.fixture(scope="module", params=CLIENTS or [pytest.param("", marks=pytest.mark.skip(reason="no docker here"))])
def client(request: pytest.FixtureRequest) -> str:
    """Each real client of this machine."""
    return str(request.param)


def test_every_command_is_offered_or_has_its_sentence(client: str) -> None:
    """Groups of commands print their help."""
    found = list(_commands(client))

    assert len(found) > 100
    for command in found:
        if SPELLINGS.get(command, command) in OFFERED:
            continue
        if command in GROUPS:
            assert isinstance(parse(command.split(), WORDS), Help), command
            continue
        refusal = _refusal(*command.split())
        assert refusal is not None, command
        assert refusal.code == "docker-not-offered", f"docker {command}: {refusal.sentence}"
        assert command.startswith(refusal.sentence.removeprefix("docker ").partition(" is not available")[0])


def test_every_option_is_read_or_has_its_sentence(client: str) -> None:
    """Of every command that is offered, by its long name and its letter."""
    count = 0
    for command in _commands(client):
        syntax = OFFERED.get(SPELLINGS.get(command, command))
        if syntax is None:
            continue
        named = {option.name: option for option in syntax.options}
        read = {name: named.get(option.stands_for, option) for name, option in named.items()}
        for short, name, kind in _help(client, command)[1]:
            count += 1
            if name == "help":
                continue
            if name in read:
                assert read[name].short == short, f"docker {command} --{name}"
                assert bool(read[name].value) == bool(kind), f"docker {command} --{name}"
                continue
            for spelled in (f"--{name}", *([f"-{short}"] if short else [])):
                refusal = _refusal(*command.split(), spelled)
                assert refusal is not None, f"docker {command} {spelled}"
                assert refusal.sentence.startswith(f"{spelled} is not available in a job: "), refusal.sentence
                assert refusal.status == 125
            assert vocabulary.is_flag(syntax.name, name) == (not kind), f"docker {command} --{name}"

    assert count > 200


def test_every_option_before_the_command(client: str) -> None:
    """The few that every command has."""
    read = {option.name: option.short for option in GLOBAL}
    for short, name, _ in _help(client, "")[1]:
        if name in read:
            assert read[name] == short
        else:
            for spelled in (f"--{name}", *([f"-{short}"] if short else [])):
                refusal = _refusal(spelled, "x", "ps")
                assert refusal is not None
                assert refusal.code == "docker-not-offered", refusal.sentence


def test_options_and_commands_of_newer_clients() -> None:
    """Those this machine's clients may not have yet."""
    for command, names in _NEWER.items():
        for name in names:
            refusal = _refusal(*command.split(), f"--{name}")
            assert refusal is None or not refusal.sentence.startswith(_UNKNOWN), (command, name)
    for command in _NEWER_COMMANDS:
        refusal = _refusal(*command.split())
        assert refusal is not None
        assert not refusal.sentence.startswith(_UNKNOWN), command


@pytest.mark.parametrize(
    "line",
    [
        "run",
        "run --foo busybox",
        "run -y busybox",
        "run --name",
        "run -e",
        "run -m xx busybox",
        "run --cpus a b",
        "run -it=foo busybox",
        "run --rm=maybe busybox",
        "run -e =x busybox",
        "run -v /a:/b:/c:d busybox",
        "run --mount type=bind busybox",
        "run --pull sometimes b",
        "run --gpus foo=x b",
        "run ---x b",
        "run --stop-timeout x b",
        "ps --foo",
        "ps x",
        "rm",
        "wait",
        "exec a",
        "inspect",
        "frob",
        "container frob",
        "pull",
        "pull a b",
        "images a b",
        "logs",
        "stop -t x a",
        "cp a b",
        "cp x:/a y:/b",
        "network create",
        "--foo ps",
        "-H",
        "version x",
        "login --password-stdin",
        "inspect --type foo a",
        "ps --filter foo",
    ],
)
def test_wrong_lines_end_as_with_the_real_client(client: str, line: str) -> None:
    """The same exit status, without an engine being asked: none is there."""
    refusal = _refusal(*line.split())
    status, _, error = run_client(client, *line.split(), host="unix:///nonexistent")

    assert "Cannot connect" not in error or line in _LEFT_TO_THE_ENGINE
    assert refusal is not None
    assert refusal.status == status, (error, refusal.sentence)
    assert "\n" not in refusal.sentence


@pytest.mark.parametrize(
    "line",
    [
        "run --help",
        "ps --help",
        "container",
        "container --help",
        "network",
        "help",
        "help run",
        "",
        "ps -h",
        "-D ps --help",
    ],
)
def test_help_is_no_error(client: str, line: str) -> None:
    """As with the real client, whose usage line is the same."""
    found = parse(line.split(), WORDS)
    status, output, error = run_client(client, *line.split(), host="unix:///nonexistent")

    assert status == 0
    assert isinstance(found, Help)
    usage = [text for text in (output + error).splitlines() if text.startswith("Usage:")]
    assert [text for text in found.text.splitlines() if text.startswith("Usage:")] == usage


def test_the_version_in_one_line(client: str) -> None:
    """Both spellings."""
    assert run_client(client, "--version")[0] == 0
    assert parse(["--version"], WORDS) == parse(["-v"], WORDS) == Version(short=True)
