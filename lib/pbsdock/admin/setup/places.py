"""The directories of an instance, from options or from an installed paths.json."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pbsdock.admin.setup.errors import SetupError
from pbsdock.core.paths import Paths

MOM_HOOKS = ("prologue", "epilogue", "prologue.parallel", "epilogue.parallel")
HELPERS = ("run", "node-check")  # what mom's configuration names
# What slurm.conf names, and the interpreter that a batch script is given.
SLURM_HOOKS = ("slurm/prolog", "slurm/epilog", "slurm/task-prolog", "slurm/health-check", "slurm/run")
_PLAIN = re.compile(r"[A-Za-z0-9/._+-]*")


def plain_path(text: str) -> Path:
    """The path, if it needs no quoting in a shell script and in mom's configuration. Raises SetupError."""
    if not text.startswith("/"):
        raise SetupError(f"{text} is not an absolute path")
    if not _PLAIN.fullmatch(text):
        raise SetupError(f"{text} holds characters other than letters, digits and / . _ + -")
    return Path(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The directories of one instance; *root* is ``/`` unless the instance is one of several on a host.

    With Slurm *slurm_conf* is its slurm.conf and *mom_priv* slurmd's spool directory, in which nothing is written.

    Many methods because each place is one; none decides anything.
    """

    mom_priv: Path
    prefix: Path
    root: Path = Path("/")
    slurm_conf: Path | None = None

    @classmethod
    def of(cls, paths: Paths) -> Places:
        """The places of an installed instance."""
        root = paths.config.parents[2]
        return cls(mom_priv=paths.mom_priv, prefix=paths.prefix, root=root, slurm_conf=paths.slurm_conf)

    @property
    def relocated(self) -> bool:
        """Whether the instance is below a *root* of its own: then it installs no systemd units."""
        return self.root != Path("/")

    @property
    def mom_hooks(self) -> tuple[str, ...]:
        """The hooks that mom finds by their names in its own directory."""
        return () if self.slurm_conf is not None else MOM_HOOKS

    @property
    def helpers(self) -> tuple[str, ...]:
        """The hooks that the manager's configuration names, below :attr:`hooks`."""
        return SLURM_HOOKS if self.slurm_conf is not None else HELPERS

    @property
    def version_hooks(self) -> tuple[str, ...]:
        """All of a version's hooks, below its own directory of them."""
        own = ("node-check", "slurm/job_submit.lua") if self.slurm_conf is not None else ()
        return (*self.mom_hooks, *self.helpers, *own, "ask")

    @property
    def where(self) -> Path:
        """What this instance is installed for, as sentences name it."""
        return self.slurm_conf if self.slurm_conf is not None else self.mom_priv

    @property
    def etc(self) -> Path:
        """Configuration."""
        return self.root / "etc/pbsdock"

    @property
    def run_dir(self) -> Path:
        """Sockets, markers, mounts."""
        return self.root / "run/pbsdock"

    @property
    def state_dir(self) -> Path:
        """The ledger."""
        return self.root / "var/lib/pbsdock"

    @property
    def log_dir(self) -> Path:
        """Events."""
        return self.root / "var/log/pbsdock"

    @property
    def mom_config(self) -> Path:
        """Mom's own configuration file."""
        return self.mom_priv / "config"

    @property
    def policy(self) -> Path:
        """The site's policy."""
        return self.etc / "pbsdock.toml"

    @property
    def instance_file(self) -> Path:
        """The instance's name in labels and cgroups."""
        return self.etc / "instance"

    @property
    def hooks(self) -> Path:
        """What mom's configuration names; the same in every version."""
        return self.prefix / "hooks"

    @property
    def run_hook(self) -> Path:
        """The job starter."""
        return self.hooks / "run"

    @property
    def node_check(self) -> Path:
        """The node check script."""
        return self.hooks / "node-check"

    @property
    def ours(self) -> tuple[Path, ...]:
        """The directories that must be root's alone."""
        return (self.prefix, self.etc, self.run_dir, self.state_dir, self.log_dir)

    def site_hooks(self, hook: str) -> Path:
        """Where the site's own hooks are. Not ``prologue.d``: ``qsub -T d`` would have mom run that name, and fail."""
        return self.mom_priv / f"site-{hook}.d"

    def instance(self) -> str:
        """The name, "" if there is none yet."""
        try:
            return self.instance_file.read_text(encoding="ascii").strip()
        except (FileNotFoundError, NotADirectoryError):
            return ""
