"""A unit like mom's with the drop-in that docs/cgroups.md shows for the delegated layout, and a sleep in mom's place."""

from __future__ import annotations

import re

from tests.conftest import ROOT


def drop_in() -> str:
    """What the manual tells an admin to write."""
    (text,) = re.findall(r"```ini\n(.*?)```", (ROOT / "docs/cgroups.md").read_text(), re.DOTALL)
    assert "/usr/sbin/pbs_mom -D" in text
    return str(text).replace("/usr/sbin/pbs_mom -D", "sleep infinity")
