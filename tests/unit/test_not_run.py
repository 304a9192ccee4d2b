"""The sentence for what a first process could not start, and what its ends come to."""

from __future__ import annotations

import errno
import signal
from dataclasses import replace

import pytest

from pbsdock.agent import first_process
from pbsdock.agent.not_run import not_run
from pbsdock.engine.base import ContainerState
from pbsdock.protocol import init
from tests.unit.test_policy import _plan

_PLAN = replace(_plan("alpine:3"), image="alpine:3", workdir="/work")


@pytest.mark.parametrize(
    ("step", "number", "path", "says"),
    [
        (
            "execve",
            errno.ENOENT,
            b"/bin/zsh",
            "image 'alpine:3' has no /bin/zsh that can be run, or what it needs to run is missing",
        ),
        (
            "execve",
            errno.E2BIG,
            b"/bin/sh",
            "the environment and arguments are longer than the kernel takes (E2BIG); make them shorter",
        ),
        ("execve", errno.EACCES, b"/a b", "image 'alpine:3': /a b cannot be run: Permission denied"),
        ("execve", errno.ENOEXEC, b"/bin/x", "image 'alpine:3': /bin/x cannot be run: Exec format error"),
        ("execve", errno.EACCES, b"/\xe9", "image 'alpine:3': /\\udce9 cannot be run: Permission denied"),
        (
            "chdir",
            errno.EACCES,
            b"/work",
            "image 'alpine:3': the work directory /work is closed to you; choose one that you may enter with --workdir,"
            " or mount one there with --volume",
        ),
        (
            "chdir",
            errno.ENOENT,
            b"/work",
            "the directory to start in, /work, cannot be entered in the container: No such file or directory",
        ),
        (
            "chdir",
            errno.EACCES,
            b"/home/alice",
            "the directory to start in, /home/alice, cannot be entered in the container: Permission denied",
        ),
        (
            "setrlimit",
            errno.EPERM,
            b"7",
            "the job's limit number 7 cannot be set in the container: Operation not permitted",
        ),
        ("fork", errno.EAGAIN, b"", "no process more can be started for the job: Resource temporarily unavailable"),
        (
            "terminal",
            errno.ENOSPC,
            b"/dev/ptmx",
            "the command could not be started in the container (terminal): No space left on device",
        ),
        (
            "memory",
            errno.ENOMEM,
            b"",
            "the command could not be started in the container (memory): Cannot allocate memory",
        ),
    ],
)
def test_why_it_was_not_run(step: str, number: int, path: bytes, says: str) -> None:
    """By the step that failed; bytes that are no text are written out."""
    assert not_run(_PLAN, init.Answer(init.FAILED, number, step, path)) == says


@pytest.mark.parametrize(
    ("kind", "number", "code", "is_polite"),
    [
        (init.ENDED, 0, 0, False),
        (init.ENDED, 3 << 8, 3, False),
        (init.ENDED, 255 << 8, 255, False),
        (init.ENDED, signal.SIGTERM, 143, True),
        (init.ENDED, signal.SIGTERM | 0x80, 143, True),
        (init.ENDED, 143 << 8, 143, False),
        (init.ENDED, signal.SIGKILL, 137, False),
        (init.ENDED, signal.SIGSEGV | 0x80, 139, True),  # with a core
        (init.ENDED, 64, 192, True),
        (init.FAILED, errno.ENOENT, 125, False),
        (init.FAILED, signal.SIGTERM, 125, False),
    ],
)
def test_what_an_end_comes_to(kind: int, number: int, code: int, is_polite: bool) -> None:
    """A shell's exit code of a wait status; only a signal itself is one, not a code that looks like it."""
    end = init.Answer(kind, number)

    assert first_process.exit_code(end, not_run=125) == code
    assert first_process.is_polite(end) is is_polite
    assert first_process.state_of(end, not_run=125) == ContainerState(exit_code=code)
