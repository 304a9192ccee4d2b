"""T8: the shell runs the bytes that were checked, although the .SC file is the user's own all the time."""

from __future__ import annotations

import subprocess

import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, Instance

pytestmark = pytest.mark.engine


def _prepared(instance: Instance, script: str) -> Trial:
    trial = Trial(instance.request(script))
    trial.prepare_files()
    assert trial.prologue() == 0
    return trial


def _rewrite(trial: Trial, text: str) -> None:
    """As the user, in place: mom's file is theirs."""
    subprocess.run(
        ["sh", "-c", 'cat >"$0"', str(trial.script_path)], input=text.encode(), user=trial.entry.pw_uid, check=True
    )


def test_rewritten_between_prologue_and_run(instance: Instance) -> None:
    """The container has the first bytes, and the plan of the first directive."""
    trial = _prepared(instance, f"#!/bin/sh\n#DOCKER --network none {IMAGE}\necho first; grep -c : /proc/net/dev\n")
    _rewrite(trial, f"#!/bin/sh\n#DOCKER --network host -v /:/host {IMAGE}\necho second; ls /host\n")
    trial.start()
    done = trial.finish(trial.wait())

    assert done.stdout == b"first\n1\n"


def test_the_copy_cannot_be_written(instance: Instance) -> None:
    """Nor can the script change what its own next line will be, as it could outside."""
    done = instance.run(
        f"#!/bin/sh\n#DOCKER {IMAGE}\necho one\n(echo 'echo forged' >>$0) 2>/dev/null\nrm -f $0 2>/dev/null\necho two\n"
    )

    assert done.stdout == b"one\ntwo\n"


def test_a_directive_added_after_the_prologue(instance: Instance) -> None:
    """A plain job that gives itself a directive afterwards is not run bare with it, nor in a container."""
    trial = _prepared(instance, "#!/bin/sh\necho plain\n")
    _rewrite(trial, f"#!/bin/sh\n#DOCKER {IMAGE}\necho forged\n")
    trial.start()
    done = trial.finish(trial.wait())

    assert (done.exit_status, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"pbsdock: the script has a #DOCKER line but the prologue did not prepare")
