"""What is compared of a started container with its plan, and whose fault a failed start is; from plain data."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from pbsdock.agent.call import read_call, without_bytes
from pbsdock.agent.launch import launch_error, no_program
from pbsdock.agent.pinning import pin_error
from pbsdock.agent.verify import Observed, mismatch
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.engine.base import EngineError, Failure
from pbsdock.protocol import wire
from tests.unit.test_policy import _plan

_PLAN = replace(_plan("alpine:3"), gid=100, groups=(7, 8))
_GOOD = Observed(is_in_cgroup=True, limits_wrong="", groups=frozenset({7, 8}), mount_wrong=None)


@pytest.mark.parametrize("groups", [{7, 8}, {7, 8, 100}])
def test_a_container_as_planned(groups: set[int]) -> None:
    """The engine adds the user's own group, or does not."""
    assert mismatch(replace(_GOOD, groups=frozenset(groups)), _PLAN) == ""


@pytest.mark.parametrize(
    ("observed", "says"),
    [
        (replace(_GOOD, is_in_cgroup=False), "it is outside of the job's cgroup"),
        (replace(_GOOD, limits_wrong="the kernel holds x"), "the kernel holds x"),
        (replace(_GOOD, groups=frozenset({7})), "its supplementary groups are not the job owner's"),
        (replace(_GOOD, groups=frozenset({7, 8, 0})), "its supplementary groups are not the job owner's"),
        (replace(_GOOD, mount_wrong="/data"), "/data is not what was checked"),
    ],
)
def test_a_container_that_is_not_as_planned(observed: Observed, says: str) -> None:
    """Each alone is enough."""
    assert mismatch(observed, _PLAN) == says


@pytest.mark.parametrize(
    ("failure", "kind", "code"),
    [
        (Failure.IMAGE_GONE, NodeFault, "image-gone"),
        (Failure.NO_NETWORK, Refusal, "no-such-network"),
        (Failure.OTHER, NodeFault, "engine-error"),
        (Failure.NO_GPUS, Refusal, "gpus-not-here"),
        (Failure.GPUS_FAILED, NodeFault, "gpus-failed"),
        (Failure.NO_DIRECTORY, Refusal, "workdir-closed"),
        (Failure.NO_PROGRAM, NodeFault, "engine-error"),  # of a container that could not even be created
    ],
)
def test_whose_fault_a_failed_start_is(failure: Failure, kind: type, code: str) -> None:
    """A network is the user's to choose."""
    found = launch_error(EngineError(500, "no", failure), _PLAN, "n1")

    assert (type(found), found.code) == (kind, code)


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ESTALE, "mount-changed"), (errno.ENOENT, "mount-changed"), (errno.EIO, "pin-failed")]
)
def test_whose_fault_a_failed_pin_is(number: int, code: str) -> None:
    """A path that was exchanged is its user's, a mount that fails is the node's."""
    assert pin_error(OSError(number, "why", "/data")).code == code


def test_what_is_believed_of_a_run_hook() -> None:
    """Its command, environment, directory and terminal, whatever their bytes."""
    request = wire.Message("start", argv=b"/bin/sh", env=[b"A=1", b"B=\xff"], cwd="/d", umask=0o022, tty=1)
    call = read_call(request, "qsub -S")

    assert (call.argv, call.environment, call.cwd, call.umask, call.tty) == (
        ("/bin/sh",),
        (("A", "1"), ("B", "\udcff")),
        "/d",
        0o022,
        True,
    )
    said = no_program(_PLAN, call, "/bin/sh", None).sentence
    assert "has no /bin/sh that can be run; choose a shell it has with qsub -S" in said


def test_what_an_engine_cannot_carry() -> None:
    """A variable that is no text, by its name or its value, is named and left out; a word is made one."""
    request = wire.Message("start", argv=[b"/bin/\xe9", b"x"], env=[b"A=1", b"B=\xff", b"\xe9=1", "Ü=ä".encode()])
    call, lost = without_bytes(read_call(request, "qsub -S"))

    assert call.argv == ("/bin/\ufffd", "x")
    assert call.environment == (("A", "1"), ("Ü", "ä"))
    assert lost == ["B", "\ufffd"]


def test_a_run_hook_without_a_command_is_refused() -> None:
    """There is nothing to be run."""
    with pytest.raises(Refusal, match="without a command"):
        read_call(wire.Message("start"), "")
