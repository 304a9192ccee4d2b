"""What a waiting container is asked to run, and what is refused before; its files are a table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import pytest

from pbsdock.agent.preflight import Command, checked, image_as_met
from pbsdock.core.errors import Refusal
from pbsdock.core.facts import ImageTraits
from pbsdock.core.plan import Plan
from pbsdock.engine.base import FoundFile
from pbsdock.engine.spec import Call
from tests.unit.test_policy import _plan

_DIRECTORY = FoundFile(kind="directory", mode=0o755, uid=0, gid=0)
_PLAN = replace(_plan("alpine:3"), image="alpine:3", uid=1000, gid=100, groups=(200,))
_CALL = Call(
    argv=("/bin/sh",),
    environment=(),
    cwd="/",
    umask=0o022,
    tty=False,
    shell_option="qsub -S",
)
_PATH = {"PATH": "/usr/bin:/opt/bin"}


def _program(head: bytes = b"#!/bin/sh\n", mode: int = 0o755) -> FoundFile:
    return FoundFile(kind="file", mode=mode, uid=0, gid=0, head=head)


_ELF = b"\x7fELF\2\1\1" + bytes(9) + b"\2\0"
_STATIC = _program(_ELF + {"x86_64": b"\x3e\0", "aarch64": b"\xb7\0"}[os.uname().machine] + bytes(44))
_FILES = {
    "/": _DIRECTORY,
    "/bin": FoundFile(kind="link", mode=0o777, uid=0, gid=0, link="usr/bin"),
    "/usr": _DIRECTORY,
    "/usr/bin": _DIRECTORY,
    "/usr/bin/sh": _STATIC,
    "/usr/bin/env": _STATIC,
    "/usr/bin/python3": _STATIC,
    "/opt": _DIRECTORY,
    "/opt/bin": _DIRECTORY,
    "/opt/bin/perl": _STATIC,
    "/opt/bin/closed": _program(mode=0o700),
    "/root": replace(_DIRECTORY, mode=0o700),
    "/root/tool": _STATIC,
    "/secret": replace(_DIRECTORY, mode=0o700),
}

_TRAITS = ImageTraits(shells=("/bin/sh",))


def _checked(
    call: Call = _CALL,
    plan: Plan = _PLAN,
    *,
    argv: tuple[str, ...] = (),
    traits: ImageTraits = _TRAITS,
    files: Mapping[str, FoundFile] = _FILES,
    directory: str = "/",
    mounted: tuple[str, ...] = (),
) -> Command:
    call = replace(call, argv=argv or call.argv)
    command = Command(argv=call.argv, environment=_PATH, directory=directory)
    return checked(plan, call, command, traits, image_as_met(plan, files.get, _PATH, mounted))


def _refused(*arguments: Call | Plan, **more: object) -> tuple[str, str]:
    with pytest.raises(Refusal) as caught:
        _checked(*arguments, **more)  # type: ignore[arg-type]
    return caught.value.code, caught.value.sentence


# -- what is run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [("/bin/sh",), ("python3", "-c", "x"), ("perl",), ("./relative",)])
def test_what_can_be_run_is_run_as_it_is(argv: tuple[str, ...]) -> None:
    """A path through links, a name of the image's own PATH; a relative path's directory is not known here."""
    assert _checked(argv=argv, directory="/tmp") == Command(argv=argv, environment=_PATH, directory="/tmp")


@pytest.mark.parametrize("kernels", ["/proc/self/exe", "/sys/x", "/dev/x"])
def test_what_is_not_the_images_is_not_judged(kernels: str) -> None:
    """Mounts say for themselves whether there is something; nothing is looked at there."""
    seen: list[str] = []

    def look(path: str) -> FoundFile | None:
        seen.append(path)
        return _FILES.get(path)

    for program in (kernels, "/home/alice/tool", "/deep/down/tool"):
        call = replace(_CALL, argv=(program,))
        command = Command(argv=call.argv, environment=_PATH, directory="/")
        image = image_as_met(_PLAN, look, _PATH, ["/home/alice", "/deep/down"])
        assert checked(_PLAN, call, command, ImageTraits(), image) is not None
    assert not [path for path in seen if path.startswith((kernels, "/home/alice/", "/deep/down/"))]


def test_the_users_own_rights_count() -> None:
    """Owner, then group, then the others: of the first that fits alone."""
    mine = {**_FILES, "/mine": replace(_STATIC, uid=1000, mode=0o100), "/ours": replace(_STATIC, gid=200, mode=0o010)}
    assert _checked(argv=("/mine",), files=mine).argv == ("/mine",)
    assert _checked(argv=("/ours",), files=mine).argv == ("/ours",)
    not_mine = {**_FILES, "/mine": replace(_STATIC, uid=1000, mode=0o011)}
    assert _refused(argv=("/mine",), files=not_mine)[0] == "program-not-executable"


def test_an_image_without_a_search_path_has_the_usual_one() -> None:
    """As the kernel's and every shell's default."""
    image = image_as_met(_PLAN, _FILES.get, {}, [])

    assert image.cause("python3") is None
    assert image.cause("perl") is not None


# -- programs -----------------------------------------------------------------------------------------------------


def test_a_shell_the_image_lacks_gives_way_to_one_it_has() -> None:
    """Where the job named none: the login shell was only the usual one. The job's words go to the other."""
    call = replace(_CALL, shell_chosen=False)

    assert _checked(call, argv=("/bin/zsh",)).argv == ("/bin/sh",)
    assert _checked(call, argv=("/bin/zsh", "-c", "x")).argv == ("/bin/sh", "-c", "x")
    assert _checked(call, argv=("/bin/zsh",), traits=ImageTraits()).argv == ("/bin/sh",)
    assert _checked(call, argv=("/bin/sh",), traits=ImageTraits(shells=("/opt/bin/perl",))).argv == ("/bin/sh",)


def test_a_shell_that_was_chosen_and_is_not_there() -> None:
    """No other is taken; how to choose one is said where a shell it is."""
    assert _refused(argv=("/usr/bin/zsh",)) == (
        "no-such-program",
        "image 'alpine:3' has no /usr/bin/zsh that can be run; choose a shell it has with qsub -S",
    )
    assert _refused(argv=("/usr/bin/zsh", "-x")) == (
        "no-such-program",
        "image 'alpine:3' has no /usr/bin/zsh that can be run",
    )
    assert _refused(argv=("/bin/zsh",)) == (
        "no-such-program",
        "image 'alpine:3': there is no /bin/zsh (/usr/bin/zsh does not exist); choose a shell it has with qsub -S",
    )


def test_an_image_without_any_shell() -> None:
    """The one that stood for the login shell is named: it is what would have been run."""
    files = {path: file for path, file in _FILES.items() if path != "/usr/bin/sh"}

    assert _refused(replace(_CALL, shell_chosen=False), argv=("/bin/zsh",), files=files) == (
        "no-such-program",
        "image 'alpine:3': there is no /bin/sh (/usr/bin/sh does not exist); choose a shell it has with qsub -S",
    )


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("/opt/bin/closed", "program-not-executable", "/opt/bin/closed is not executable for you (mode 0700)"),
        ("/root/tool", "program-closed", "the directory /root on the way to /root/tool is closed to you (mode 0700)"),
        ("/opt", "program-not-executable", "/opt is a directory, not a program"),
        ("nonsense", "no-such-program", "there is no program 'nonsense' in its PATH (/usr/bin:/opt/bin)"),
        ("/opt/nonsense/x", "no-such-program", "there is no /opt/nonsense/x (/opt/nonsense does not exist)"),
    ],
)
def test_why_a_program_cannot_be_run(program: str, code: str, says: str) -> None:
    """In the words of what was found."""
    found = _refused(argv=(program, "x"))

    assert found[0] == code
    assert found[1].startswith(f"image 'alpine:3': {says}")


# -- the entry point ----------------------------------------------------------------------------------------------


def test_the_entry_point_is_in_front() -> None:
    """The command's words behind its own; a shell gets them by a word that runs them."""
    plan = replace(_PLAN, entrypoint="/usr/bin/env -i A=1")

    assert _checked(_CALL, plan, argv=("/bin/sh", "-x")).argv == ("/usr/bin/env", "-i", "A=1", "/bin/sh", "-x")
    shell = replace(_PLAN, entrypoint="/bin/sh")
    assert _checked(_CALL, shell, argv=("python3",)).argv == ("/bin/sh", "-c", 'exec "$0" "$@"', "python3")


def test_an_entry_point_that_cannot_be_run() -> None:
    """It is told as that, before the command behind it."""
    assert _refused(_CALL, replace(_PLAN, entrypoint="/opt/bin/closed -x"), argv=("/bin/zsh",)) == (
        "program-not-executable",
        "image 'alpine:3': the entry point: /opt/bin/closed is not executable for you (mode 0700); make it so in the"
        " image, with chmod a+rx",
    )
    code, says = _refused(_CALL, replace(_PLAN, entrypoint="/opt/none"), argv=("/bin/sh",))
    assert (code, says) == (
        "no-such-program",
        "image 'alpine:3': the entry point: there is no /opt/none; name a program that it has",
    )


def test_the_command_behind_an_entry_point_is_checked_too() -> None:
    """Else it would be the entry point's word alone."""
    plan = replace(_PLAN, entrypoint="/usr/bin/env")

    assert (
        _refused(_CALL, plan, argv=("/usr/bin/zsh", "x"))[1] == "image 'alpine:3' has no /usr/bin/zsh that can be run"
    )


# -- the script's interpreter -------------------------------------------------------------------------------------


def test_an_interpreter_with_a_carriage_return() -> None:
    """Written on another system: how to mend it."""
    assert _refused(replace(_CALL, interpreter="/bin/sh\r")) == (
        "no-interpreter",
        "the script's first line ends with a carriage return (CRLF), so that '/bin/sh\\r' is looked for as its"
        " interpreter; remove them with sed -i 's/\\r$//' SCRIPT",
    )


def test_an_interpreter_that_is_not_there() -> None:
    """The shell would only say that the script is not found."""
    assert _refused(replace(_CALL, interpreter="/usr/bin/ruby")) == (
        "no-interpreter",
        "image 'alpine:3' has no /usr/bin/ruby, which the script's first line names",
    )


def test_an_interpreter_that_cannot_be_run() -> None:
    """By the code of what was found."""
    assert _refused(replace(_CALL, interpreter="/opt/bin/closed")) == (
        "program-not-executable",
        "image 'alpine:3': /opt/bin/closed is not executable for you (mode 0700); make it so in the image, with"
        " chmod a+rx (which the script's first line names)",
    )


@pytest.mark.parametrize("interpreter", ["/usr/bin/python3", "/home/alice/bin/tool", ""])
def test_an_interpreter_that_can_be_run_or_lies_in_a_mount(interpreter: str) -> None:
    """It is nobody's business here."""
    assert _checked(replace(_CALL, interpreter=interpreter), mounted=("/home/alice",)).argv == ("/bin/sh",)


def test_what_env_is_to_find() -> None:
    """In the PATH the job will have."""
    call = replace(_CALL, interpreter="/usr/bin/env", env_finds="ruby")

    assert _refused(call) == (
        "no-interpreter",
        "image 'alpine:3' has no program ruby in its PATH, which the script's first line names",
    )
    assert _checked(replace(call, env_finds="perl")).argv == ("/bin/sh",)


@pytest.mark.parametrize("argv", [("/usr/bin/python3",), ("/bin/sh", "-l")])
def test_what_env_is_to_find_is_unknown_behind_other_shells(argv: tuple[str, ...]) -> None:
    """They may read files of the user's first, which change PATH."""
    call = replace(_CALL, interpreter="/usr/bin/env", env_finds="ruby")

    assert _checked(call, argv=argv).argv == argv


def test_the_shell_that_stands_for_another_is_judged_as_itself() -> None:
    """A login shell of another kind that the image lacks reads nothing."""
    call = replace(_CALL, interpreter="/usr/bin/env", env_finds="ruby", shell_chosen=False)

    assert _refused(call, argv=("/bin/tcsh",))[0] == "no-interpreter"


# -- the work directory -------------------------------------------------------------------------------------------


def test_a_closed_work_directory() -> None:
    """The directive's own, which the user cannot be in."""
    plan = replace(_PLAN, workdir="/secret")

    assert _refused(_CALL, plan, directory="/secret") == (
        "workdir-closed",
        "image 'alpine:3': the work directory /secret is closed to you; choose one that you may enter with --workdir,"
        " or mount one there with --volume",
    )
    assert _checked(_CALL, plan, directory="/secret", mounted=("/secret",)).directory == "/secret"
    assert _checked(_CALL, replace(_PLAN, workdir="/opt"), directory="/opt").directory == "/opt"


def test_another_directory_than_the_directives_is_not_judged() -> None:
    """The first process says so if it cannot be entered."""
    assert _checked(directory="/secret").directory == "/secret"
