"""Write the lock files beside this one anew, with the newest versions that setup.cfg and pyproject.toml allow.

``make lock`` runs it with the interpreter of the oldest Python that is supported; pip-tools does the work, itself taken
from ``tools.txt``. All of it is resolved at once (``test.txt``); the other files are parts of that, so that what is
tested is what is installed.
"""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
VM = ("jsonschema", "pytest", "pytest-timeout")  # what the tests inside the virtual machine import
TOOLS = ("pip-tools >= 7.5",)
PAGES = ("argparse-manpage >= 4.6", "shtab >= 1.7")  # what manual pages and completion are made with
# Wheels only, since what is fetched in another form runs code of its own to be built. These are published in no other.
SOURCES = ("cgroupspy",)
MORE_SOURCES = {"pages": ("argparse-manpage",)}
OPTIONS = (
    "--quiet",
    "--allow-unsafe",
    "--generate-hashes",
    "--strip-extras",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--no-emit-trusted-host",
    "--no-emit-options",
)


def head(name: str) -> str:
    """How a lock file begins."""
    sources = (*SOURCES, *MORE_SOURCES.get(name, ()))
    return "".join(["--only-binary :all:\n", *(f"--no-binary {source}\n" for source in sources)])


def wanted() -> dict[str, list[str]]:
    """The requirements of each file, as they are declared; the whole comes first."""
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg")
    run = settings["options"]["install_requires"].split("\n")
    test = settings["options.extras_require"]["test"].split("\n")
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["build-system"]["requires"]
    return {
        "test": [*run, *test, *build],
        "run": run,
        "build": build,
        "vm": list(VM),
        "tools": list(TOOLS),
        "pages": list(PAGES),
    }


def main() -> int:
    """Returns pip-tools' exit code."""
    environment = {**os.environ, "CUSTOM_COMPILE_COMMAND": "make lock"}
    with tempfile.TemporaryDirectory() as work:
        python = f"{work}/venv/bin/python"
        subprocess.run([sys.executable, "-m", "venv", f"{work}/venv"], check=True)
        tools = ["--require-hashes", "-r", str(HERE / "tools.txt")] if (HERE / "tools.txt").exists() else TOOLS
        subprocess.run([python, "-m", "pip", "install", "--quiet", *tools], check=True)
        for name, lines in wanted().items():
            (Path(work) / f"{name}.in").write_text("\n".join(lines) + "\n")
            parts = [] if name in ("test", "tools", "pages") else ["--constraint", "test.txt"]
            files = ["--output-file", f"{name}.txt", f"{name}.in"]
            command = [python, "-m", "piptools", "compile", *OPTIONS, *parts, *files]
            done = subprocess.run(command, cwd=work, env=environment, check=False)
            if done.returncode:
                return done.returncode
        for name in wanted():
            (HERE / f"{name}.txt").write_text(head(name) + (Path(work) / f"{name}.txt").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
