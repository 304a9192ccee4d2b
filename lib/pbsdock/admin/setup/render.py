"""The files of a version besides its packages: hooks, commands, places, and those of the host's services. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pbsdock.admin.setup.places import Places

OURS = "# pbsdock hook:"
UNITS = ("pbsdock-agent.socket", "pbsdock-agent.service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderer:
    """Fills in the marks (``@PYTHON@``, ``@PATHS@`` ...) in the templates of hooks and commands."""

    places: Places
    home: Path  # the version's own directory, by its real name: what starts from it stays with it
    python: Path
    library: Path
    instance: str

    @property
    def paths(self) -> Path:
        """The path of paths.json."""
        return self.home / "paths.json"

    def hook(self, text: str) -> str:
        """The text of a hook with its marks filled in."""
        marks = {
            "@PYTHON@": self.python,
            "@LIB@": self.library,
            "@RUN_DIR@": self.places.run_dir,
            "@STATE_DIR@": self.places.state_dir,
            "@MOM_PRIV@": self.places.mom_priv,
            "@PATHS@": self.paths,
            "@HOME@": self.home,
            "@PREFIX@": self.places.prefix,
            "@SLURM_CONF@": self.places.slurm_conf or "",
        }
        for mark, value in marks.items():
            text = text.replace(mark, str(value))
        return text

    def step_words(self) -> tuple[str, ...]:
        """What the run hook of a job step of Slurm's has to know: the agent's socket, and the one in Python (run.c)."""
        code = f"import sys; sys.path.insert(0, {str(self.library)!r})\nfrom pbsdock.hook.client import hook\nhook()"
        run_dir = str(self.places.run_dir)
        options = ("--paths", str(self.paths), "--run-dir", run_dir, "slurm-step")
        return (f"{run_dir}/agent.sock", str(self.python), "-I", "-S", "-c", code, *options)

    def places_file(self) -> str:
        """The text of paths.json (:class:`pbsdock.core.paths.Paths`)."""
        places = self.places
        return (
            json.dumps(
                {
                    "python": str(self.python),
                    "lib": str(self.library),
                    "run_dir": str(places.run_dir),
                    "state_dir": str(places.state_dir),
                    "log_dir": str(places.log_dir),
                    "config": str(places.policy),
                    "mom_priv": str(places.mom_priv),
                    "instance": self.instance,
                    "prefix": str(places.prefix),
                    "home": str(self.home),
                    **({"slurm_conf": str(places.slurm_conf)} if places.slurm_conf is not None else {}),
                },
                indent=1,
            )
            + "\n"
        )

    def command(self) -> str:
        """The text of the command ``pbsdock``."""
        code = "import sys\nfrom pbsdock.admin.cli import main\nsys.exit(main())"
        return f'#!/bin/sh\nexec "{self.python}" -I -c \'{code}\' --paths "{self.paths}" "$@"\n'

    def agent(self) -> str:
        """The text of the command ``pbsdock-agent``."""
        return (
            f'#!/bin/sh\nexec "{self.python}" -I -S -c \'import sys; sys.path.insert(0, "{self.library}")\n'
            f'from pbsdock.agent.daemon import main\nsys.exit(main())\' --paths "{self.paths}" "$@"\n'
        )


def stub(name: str, hook: str, prefix: Path) -> str:
    """What mom calls. It stays the same from version to version; *hook* is the text of the hook itself.

    The shell reads the hook into itself: another exec would cost each hook of each job as much as the hook. The name is
    looked up once, so the rest comes from one version.
    """
    shebang = hook.partition("\n")[0]
    return (
        f"{shebang}\n{OURS} {name}. It is the one of the version in force; this file is the same in all versions.\n"
        f'. "{prefix}/current/hooks/{name}"\n'
    )


def is_ours(text: str) -> bool:
    """Whether a hook in mom_priv is one of pbsdock's."""
    return text.partition("\n")[2].startswith(OURS)
