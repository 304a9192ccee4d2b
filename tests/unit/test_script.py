"""Reading a job's script: once, and only a plain file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pbsdock.agent.script import read_script
from pbsdock.core.errors import Refusal


@pytest.mark.parametrize("kind", ["directory", "fifo", "link", "second name", "another's"])
def test_what_is_no_plain_file_of_the_owners_is_refused(tmp_path: Path, kind: str) -> None:
    """With a sentence, and no descriptor stays open."""
    path, plain = tmp_path / "7.vm.SC", tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    os.chown(plain, 1000, 1000)
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(plain)
    elif kind == "second name":
        path.hardlink_to(plain)
    else:
        path.write_text("")
        os.chown(path, 1001, 1001)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Refusal) as caught:
        read_script(str(path), 1000)

    assert caught.value.code in ("script-unsafe", "script-unreadable")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_plain_file_and_none(tmp_path: Path) -> None:
    """An interactive job has none."""
    path = tmp_path / "7.vm.SC"
    assert read_script(str(path), 0) is None
    path.write_bytes(b"#!/bin/sh\n")
    assert read_script(str(path), 0) == b"#!/bin/sh\n"
