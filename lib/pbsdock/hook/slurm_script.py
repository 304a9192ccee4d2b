"""The first line that a batch script of Slurm's gets on its node, by which the kernel starts the run hook in its place.

The script is its user's own file, in a directory of root's: it is written in place (``slurm_script``, mode 0700).
"""

from __future__ import annotations

import os

HOOK = b"/hooks/slurm/run"  # how the path of the run hook ends


def line_for(hook: str) -> bytes:
    """The line that names the run hook *hook*."""
    return b"#!" + os.fsencode(hook) + b"\n"


def main(arguments: list[str]) -> int:
    """Put the line for the run hook in front of the script: HOOK SCRIPT. Returns an exit code."""
    hook, script = arguments
    with open(script, "r+b") as file:
        text = file.read()
        if not is_ours(text):
            file.seek(0)
            file.write(line_for(hook) + text)
    return 0


def restore(script: str) -> None:
    """Take it away again, for a script that runs without a container. Raises OSError."""
    with open(script, "r+b") as file:
        text = file.read()
        if is_ours(text):
            file.seek(0)
            file.write(text.partition(b"\n")[2])
            file.truncate()


def is_ours(text: bytes) -> bool:
    """Whether a script has it."""
    first = text.partition(b"\n")[0]
    return first.startswith(b"#!") and first.endswith(HOOK)
