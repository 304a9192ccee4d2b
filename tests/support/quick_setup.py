"""install.sh with the packages of a version that is there already, copied: for tests that are not about how packages are
fetched and built, which takes ten seconds. Everything else of the installer is as it is."""

from __future__ import annotations

from pathlib import Path

_CODE = f"""import sys
sys.path.insert(0, sys.argv[1] + "/lib")
sys.path.append({str(Path(__file__).resolve().parents[2])!r})
from tests.support.quick_setup import main
sys.exit(main(*sys.argv[1:]))"""


def command(checkout: Path, packages: Path) -> list[str]:
    """In place of *checkout*'s ``install.sh``; *packages* is the directory of an installed version."""
    return ["/usr/bin/python3", "-I", "-B", "-c", _CODE, str(checkout), str(packages)]


def main(checkout: str, packages: str, *arguments: str) -> int:
    """Run it; returns the exit code."""
    from pbsdock.admin.setup import command, environment
    from pbsdock.admin.setup.versions import Version

    environment._fill = lambda version, *_: environment._copy(Version(Path(packages)), version)
    return command.main([checkout, *arguments])
