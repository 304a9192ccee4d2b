"""Whether a shell has begun, asked of real ones."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pbsdock.agent.shell import awaits_script, waited_for
from tests.conftest import wait_until


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_shell_that_has_begun(tmp_path: Path, shell: str) -> None:
    """Before it has its script's path it awaits it; while the script runs and after it, it does not, though it waits again."""
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\nread line <{tmp_path}/go\n")
    script.chmod(0o755)
    os.mkfifo(tmp_path / "go")
    process = subprocess.Popen([shell], stdin=subprocess.PIPE)
    assert process.stdin is not None
    before = waited_for(process.pid)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    seen = [awaits_script(process.pid, before)]
    process.stdin.write(f"{script}\n".encode())
    process.stdin.flush()
    wait_until("the script runs", lambda: bool(children.read_text()))
    seen.append(awaits_script(process.pid, before))
    (tmp_path / "go").write_text("on\n")
    wait_until("the script is over", lambda: not children.read_text())
    seen.append(awaits_script(process.pid, before))
    process.communicate()

    assert seen == [True, False, False]
    assert not awaits_script(process.pid, before)
    assert not awaits_script(process.pid, -1)
