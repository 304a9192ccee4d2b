"""One site for all tests of faults."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Instance
from tests.faults.site import Site


@pytest.fixture(scope="session")
def site(installed: Instance) -> Iterator[Site]:
    """Made once: it takes longer than many of the tests."""
    root = Path(tempfile.mkdtemp(prefix="pbsdock-faults.", dir="/var/tmp"))
    root.chmod(0o755)
    made = Site(root)
    try:
        made.make(installed.home)
        yield made
    finally:
        made.unmake()
        shutil.rmtree(root, ignore_errors=True)
