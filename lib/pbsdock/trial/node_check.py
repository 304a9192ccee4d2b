"""What $node_check_script says against the node."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from pbsdock.trial import environment

_DOWN = "ERROR"  # how a node check's line begins that takes the node down
_TRUE = ("true", "yes", "1", "t", "y")  # of $down_on_error


def down(config: Mapping[str, str], mom_priv: Path) -> str | None:
    """The line that takes the node down; None if there is none, or mom's config does not let it."""
    script = config.get("node_check_script")
    if not script or config.get("down_on_error", "").lower() not in _TRUE:
        return None
    said = subprocess.run(
        [script.split()[0]],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=60,
        cwd=mom_priv,
        env=environment.MOM,
    ).stdout
    return next((line.strip() for line in said.splitlines() if line.startswith(_DOWN)), None)
