"""What the docs show in shell is run: job scripts as jobs, commands against an instance."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS, Instance
from tests.support.docs_shell import Block, blocks

pytestmark = pytest.mark.engine
_JOBS = [block for block in blocks() if block.kind == "run: job"]
_COMMANDS = [block for block in blocks() if block.kind == "run: commands"]
_SHOWN = "busybox:1"  # the image of every job that is run, in the docs


@pytest.mark.parametrize("block", _JOBS, ids=[block.where for block in _JOBS])
def test_a_job_of_the_docs(instance: Instance, tmp_path: Path, block: Block) -> None:
    """It ends well and says something, as somebody who copies it expects."""
    assert _SHOWN in block.text
    script = tmp_path / "job.sh"
    script.write_text(block.text.replace(_SHOWN, IMAGE))
    element = ["-t", "3"] if " -t " in block.text else []

    done = instance.command("try", "--user", USERS[0], *element, str(script), cwd=pwd.getpwnam(USERS[0]).pw_dir)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.parametrize("block", _COMMANDS, ids=[block.where for block in _COMMANDS])
def test_commands_of_the_docs(instance: Instance, tmp_path: Path, block: Block) -> None:
    """Every line by itself, where job.sh is the job of docs/start.md, job 16 has been run, and alice is a user."""
    directory = Path(pwd.getpwnam(USERS[0]).pw_dir) / "docs"
    directory.mkdir(mode=0o755)
    text = next(job.text for job in _JOBS if "start.md" in job.where).replace(_SHOWN, IMAGE)
    (directory / "job.sh").write_text(text)
    numbers = {"16": ""}
    if " 16" in block.text:
        numbers["16"] = instance.run(text, resources="nodes=1:ppn=1,mem=64mb").job_id
    environment = {**os.environ, "PATH": f"{instance.root}/opt/pbsdock/bin:{os.environ['PATH']}", "HOME": str(tmp_path)}
    instance.start_agent()
    try:
        for line in filter(str.strip, block.text.splitlines()):
            command = line.replace("mem=8gb", "mem=64mb").replace("--user alice", f"--user {shlex.quote(USERS[0])}")
            command = " ".join(numbers.get(word, word) for word in command.split(" "))
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=directory,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert 0 <= done.returncode <= block.most, (command, done.stdout, done.stderr)
    finally:
        instance.command("undrain")
        subprocess.run(["rm", "-rf", str(directory)], check=True)
