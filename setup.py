"""Compile the programs in C (init/) into the package; everything else is in setup.cfg."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "lib"))
from pbsdock.admin.setup import first_process  # noqa: E402
from pbsdock.admin.setup.errors import SetupError  # noqa: E402


class BuildWithFirstProcess(build_py):
    """A checkout in place does without it where nothing can compile it; a wheel is for hosts that cannot."""

    def run(self) -> None:
        """Raises SystemExit, with a sentence."""
        for program in first_process.PROGRAMS:
            path = HERE / "lib/pbsdock" / program.name
            try:
                first_process.compile_to(path, HERE / "init", program)
            except SetupError as error:
                path.unlink(missing_ok=True)  # what an older source was compiled to
                if not self.editable_mode:
                    raise SystemExit(f"the first process of containers is missing: {error}") from None
                print(f"the first process of containers is missing: {error}", file=sys.stderr)
        super().run()


class Platform(Distribution):
    """Not for every processor."""

    def has_ext_modules(self) -> bool:
        """Makes wheels name this machine's."""
        return True


commands: dict[str, type] = {"build_py": BuildWithFirstProcess}
try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # before setuptools 70.1
    from wheel.bdist_wheel import bdist_wheel


class PlatformWheel(bdist_wheel):
    """For every Python, since the program is none of Python's."""

    def get_tag(self) -> tuple[str, str, str]:
        """As the wheel specification has it."""
        return "py3", "none", super().get_tag()[2]


commands["bdist_wheel"] = PlatformWheel
setup(cmdclass=commands, distclass=Platform)
