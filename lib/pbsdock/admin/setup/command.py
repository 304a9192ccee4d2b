"""The command line of ``pbsdock setup`` and of ``install.sh``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbsdock.admin.setup import environment, slurm_config
from pbsdock.admin.setup.check import check
from pbsdock.admin.setup.cluster_key import make_key
from pbsdock.admin.setup.errors import SetupError
from pbsdock.admin.setup.files import read
from pbsdock.admin.setup.install import Order, install, rollback
from pbsdock.admin.setup.places import Places, plain_path
from pbsdock.admin.setup.source import Source
from pbsdock.admin.setup.uninstall import uninstall

USAGE = """\
usage: install.sh {--mom-priv DIR | --slurm CONF} [--prefix DIR] [--root DIR] [--python PATH] [--wheels DIR]
                  [--write-conf] [--dry-run | --check | --rollback | --uninstall]
       install.sh --fetch DIR [--python PATH]

  --mom-priv DIR  mom's private directory, for example /var/spool/torque/mom_priv
  --slurm CONF    for Slurm in place of Torque: its slurm.conf, for example /etc/slurm/slurm.conf, which is not changed
  --write-conf    with --slurm: write that into CONF as a marked block
  --prefix DIR    where the program goes (default: /opt/pbsdock, below --root if that is given)
  --root DIR      a relocated instance: configuration, state, sockets and logs below DIR
  --python PATH   interpreter for pbsdock's own virtual environment (default: /usr/bin/python3)
  --wheels DIR    take what pbsdock needs from DIR (filled by --fetch) and from nowhere else
  --dry-run       say what would be done, change nothing
  --check         verify an installation; exit 1 and a sentence for everything that is wrong
  --rollback      put the version before the last upgrade in force again
  --fetch DIR     only fill DIR with what pbsdock needs, for hosts without a package index; needs no root
  --uninstall     undo: site hooks and mom's config come back; configuration, state and logs stay
"""
_PYTHON = "/usr/bin/python3"
_VALUES = ("--mom-priv", "--slurm", "--prefix", "--root", "--python", "--wheels", "--fetch")
_MODES = ("--dry-run", "--check", "--rollback", "--uninstall")


@dataclass(slots=True, kw_only=True)
class Options:
    """The options as given, not yet checked; "" if an option was not given."""

    verb: str = "install"
    dry_run: bool = False
    replace: bool = False
    write_conf: bool = False
    mom_priv: str = ""
    slurm: str = ""
    prefix: str = ""
    root: str = ""
    python: str = ""
    wheels: str = ""
    fetch: str = ""
    source: str = ""
    installed: Places | None = None  # whose command was called; where it is stands for what was not given


def run(options: Options) -> int:
    """Run the command; returns the exit code. Raises SetupError, OSError."""
    given = (
        options.mom_priv,
        options.slurm,
        options.prefix,
        options.root,
        options.wheels,
        options.fetch,
        options.python,
    )
    for text in given:
        if text:
            plain_path(text)
    wheels = Path(options.wheels) if options.wheels else None
    if wheels is not None and not wheels.is_dir():
        raise SetupError(f"--wheels {wheels} is not a directory")
    python = Path(options.python or _PYTHON)
    if options.fetch:
        count = environment.fetch(python, Source(Path(options.source)), Path(options.fetch))
        print(f"fetched {count} packages into {options.fetch}; install with --wheels {options.fetch}")
        return 0
    if options.verb == "key":
        return _key(options)
    places = _places(options)
    if os.geteuid() != 0:
        raise SetupError("must be run as root")
    if options.verb == "check":
        return check(places, print)
    if options.verb == "uninstall":
        return uninstall(places, print)
    if options.verb == "rollback":
        return rollback(places, print)
    if not options.source:
        raise SetupError("--source is missing: the checkout to install from, where install.sh lies")
    if options.write_conf and places.slurm_conf is None:
        raise SetupError("--write-conf belongs to --slurm")
    order = Order(
        places=places,
        source=Source(Path(options.source)),
        python=python,
        wheels=wheels,
        writes_slurm_conf=options.write_conf,
    )
    return install(order, print, dry_run=options.dry_run)


def _key(options: Options) -> int:
    """A key is also made on a host without mom, from which an admin copies it to the nodes."""
    if os.geteuid() != 0:
        raise SetupError("must be run as root")
    known = options.installed
    root = Path(options.root) if options.root else known.root if known else Path("/")
    return make_key(root / "etc/pbsdock/pbsdock.toml", print, replace=options.replace)


def _places(options: Options) -> Places:
    known = options.installed
    if options.slurm and options.mom_priv:
        raise SetupError("--slurm and --mom-priv: an instance serves one of the two; use --root for another")
    if options.slurm or (known is not None and known.slurm_conf is not None and not options.mom_priv):
        return _slurm_places(options)
    mom_priv = Path(options.mom_priv) if options.mom_priv else known.mom_priv if known else None
    if mom_priv is None:
        raise SetupError("--mom-priv is missing")
    if not mom_priv.is_dir():
        raise SetupError(f"--mom-priv {mom_priv} is not a directory")
    root = Path(options.root) if options.root else known.root if known else Path("/")
    default = known.prefix if known and not options.root else root / "opt/pbsdock"
    return Places(mom_priv=mom_priv, prefix=Path(options.prefix) if options.prefix else default, root=root)


def _slurm_places(options: Options) -> Places:
    """Raises SetupError."""
    known = options.installed
    conf = Path(options.slurm) if options.slurm else known.slurm_conf if known else None
    assert conf is not None
    if not conf.is_file():
        raise SetupError(f"--slurm {conf} is not a file; expected a slurm.conf")
    root = Path(options.root) if options.root else known.root if known else Path("/")
    default = known.prefix if known and not options.root else root / "opt/pbsdock"
    prefix = Path(options.prefix) if options.prefix else default
    named = slurm_config.spool(read(conf))
    spool = plain_path(named) if "%n" not in named else plain_path(named.replace("%n", "n")).parent / Path(named).name
    if "%n" not in named and not spool.is_dir():
        raise SetupError(f"{conf}: SlurmdSpoolDir {spool} is not a directory; start slurmd once, which makes it")
    return Places(mom_priv=spool, prefix=prefix, root=root, slurm_conf=conf)


def _report(name: str, options: Options) -> int:
    try:
        return run(options)
    except (SetupError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1


def main(argv: Sequence[str]) -> int:
    """Run ``install.sh``; *arguments*: the checkout, then the script's own. Returns the exit code."""
    options = Options(source=argv[0])
    rest = list(argv[1:])
    try:
        while rest:
            name = rest.pop(0)
            if name in _VALUES:
                if not rest:
                    raise SetupError(f"{name} needs a value")
                setattr(options, name[2:].replace("-", "_"), rest.pop(0))
            elif name == "--dry-run":
                options.dry_run = True
            elif name == "--write-conf":
                options.write_conf = True
            elif name in _MODES:
                options.verb = name[2:]
            elif name in ("-h", "--help"):
                print(USAGE, end="")
                return 0
            else:
                print(USAGE, end="", file=sys.stderr)
                raise SetupError(f"unknown argument {name}")
        if not options.mom_priv and not options.slurm and not options.fetch:
            print(USAGE, end="", file=sys.stderr)
            raise SetupError("--mom-priv is missing, or --slurm")
    except SetupError as error:
        print(f"install.sh: {error}", file=sys.stderr)
        return 1
    return _report("install.sh", options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``pbsdock setup``."""
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    said = {
        "install": "install, upgrade or mend, as install.sh does",
        "check": "verify; exit 1 and a sentence for everything that is wrong",
        "rollback": "put the version before the last upgrade in force again",
        "uninstall": "undo; configuration, state and logs stay",
    }
    for verb, text in said.items():
        added = verbs.add_parser(verb, help=text)
        added.add_argument("--mom-priv", default="", metavar="DIR", help="mom's private directory")
        added.add_argument("--slurm", default="", metavar="CONF", help="for Slurm in place of Torque: its slurm.conf")
        added.add_argument("--prefix", default="", metavar="DIR", help="where the program is")
        added.add_argument("--root", default="", metavar="DIR", help="an instance below DIR")
        if verb == "install":
            added.add_argument("--source", default="", metavar="DIR", help="the checkout to install from")
            added.add_argument("--python", default="", metavar="PATH", help=f"interpreter (default: {_PYTHON})")
            added.add_argument(
                "--wheels", default="", metavar="DIR", help="take packages from DIR and from nowhere else"
            )
            added.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")
            added.add_argument("--write-conf", action="store_true", help="with --slurm: write a marked block into CONF")

    key = verbs.add_parser("key", help="make the key that all nodes of the cluster sign with, where there is no munge")
    key.add_argument("--replace", action="store_true", help="make another although there is one")
    key.add_argument("--root", default="", metavar="DIR", help="of an instance below DIR")


def called(arguments: argparse.Namespace, installed: Places | None) -> int:
    """Run ``pbsdock setup VERB``; returns the exit code."""
    names = (
        "verb",
        "mom_priv",
        "slurm",
        "prefix",
        "root",
        "source",
        "python",
        "wheels",
        "dry_run",
        "replace",
        "write_conf",
    )
    given: dict[str, Any] = {name: value for name in names if (value := getattr(arguments, name, ""))}
    return _report("pbsdock setup", Options(**given, installed=installed))
