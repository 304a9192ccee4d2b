"""A checkout of another version, to upgrade to: the same program but for its number."""

from __future__ import annotations

import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def newer(made: Path) -> Path:
    """Make it in the empty directory *made*."""
    for name in ("install.sh", "setup.cfg", "LICENSE"):
        shutil.copy(REPOSITORY / name, made)
    for name in ("lib", "hooks", "etc", "lock", "init", "share"):
        shutil.copytree(REPOSITORY / name, made / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    config = made / "setup.cfg"
    text = config.read_text()
    config.write_text(text.replace("version = 0.1.0\n", "version = 0.1.1\n"))
    assert config.read_text() != text
    return made
