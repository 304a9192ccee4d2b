"""Slurm's own commands with all they need to run in containers: plugins, libraries, a slurm.conf, munge's socket.

A copy of slurm.conf names the places that these have in the container, and no SPANK plugin. Whatever is in it, or is
copied, everybody can read on the host: what is closed to others makes that there are no such commands.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from pbsdock.rm.base import ClientTool
from pbsdock.rm.client_tools import look_at
from pbsdock.rm.slurm.values import settings

PROGRAMS = ("srun", "scontrol", "squeue", "scancel", "sbatch", "sinfo", "sbcast", "sstat")
_PLUGINS = ("/usr/lib/x86_64-linux-gnu/slurm-wlm", "/usr/lib/slurm-wlm", "/usr/lib64/slurm", "/usr/lib/slurm")
# Of the plugins those that commands load, by the beginnings of their names.
_KINDS = tuple(
    f"{kind}_"
    for kind in "auth cred hash tls select switch launch mpi gres gpu cli_filter topology data_parser serializer"
    " accounting_storage route".split()
)
_MUNGE = "/run/munge/munge.socket.2"
_SETTING = re.compile(r"^[ \t]*(PluginDir|PlugStackConfig|AuthInfo|Include)\b[^\n]*\n?", re.MULTILINE | re.IGNORECASE)
_MOST_INCLUDES = 32


class Clients:
    """*conf* is slurm.conf, *where* the directory in the container that all lies below; programs are looked for in
    *path*. Looked at anew when one of the files has changed."""

    def __init__(self, conf: Path, where: str, path: str) -> None:
        self._conf = conf
        self._where = where
        self._path = path
        self._seen: tuple[object, tuple[ClientTool | None, str]] | None = None

    def find(self) -> tuple[ClientTool | None, str]:
        """All of them, or None and why there are none. Raises OSError."""
        srun = shutil.which("srun", path=self._path)
        if srun is None:
            return None, "this host has no srun"
        text = joined(self._conf)
        if text is None:
            return None, f"{self._conf}, or what it includes, is not for everybody to read"
        found = settings(text)
        if found.get("authtype", "auth/munge").lower() != "auth/munge":
            return None, f"AuthType is {found['authtype']}, and only munge can be asked from a container"
        plugins = next(
            (place for place in (found.get("plugindir", ""), *_PLUGINS) if place and os.path.isdir(place)), ""
        )
        if not plugins:
            return (
                None,
                "the directory of Slurm's plugins is not found: it is not in PluginDir, nor in the usual places",
            )
        marks = tuple(os.stat(path).st_mtime_ns for path in (srun, plugins))
        if self._seen is None or self._seen[0] != (srun, text, marks):
            self._seen = (srun, text, marks), self._gather(srun, text, found, plugins)
        return self._seen[1]

    def _gather(self, srun: str, text: str, own: dict[str, str], plugins: str) -> tuple[ClientTool | None, str]:
        tool, why = look_at(srun)
        if tool is None:
            return None, why
        library: ClientTool | None
        socket = munge_socket(own)
        names = sorted(name for name in os.listdir(plugins) if name.startswith(_KINDS) and name.endswith(".so"))
        libraries, files, texts = dict(tool.libraries), [], {}
        for name in names:
            plugin, _why = look_at(f"{plugins}/{name}", loader=tool.loader)
            if plugin is None:
                continue
            libraries |= dict(plugin.libraries)
            if moved := moved_pmix(f"{plugins}/{name}", f"{self._where}/lib") if name.startswith("mpi_pmix") else None:
                texts[f"plugins/{name}"], pmix = moved
                library, _why = look_at(pmix, loader=tool.loader)
                libraries |= {os.path.basename(pmix): pmix, **dict(library.libraries if library is not None else ())}
            else:
                files.append((f"plugins/{name}", f"{plugins}/{name}"))
        texts["etc/slurm.conf"] = for_containers(text, self._where, os.path.basename(socket)).encode(
            "utf-8", "surrogateescape"
        )
        programs = [(name, found) for name in PROGRAMS if (found := shutil.which(name, path=self._path))]
        return (
            ClientTool(
                program=srun,
                loader=tool.loader,
                libraries=tuple(sorted(libraries.items())),
                programs=tuple(programs),
                files=tuple(files),
                texts=tuple(texts.items()),
                directories=((os.path.dirname(socket), f"{self._where}/munge"),),
                scratch=scratch(own),
                account=own.get("slurmuser", "root"),
            ),
            "",
        )


def joined(conf: Path, read: Callable[[Path], str | None] | None = None) -> str | None:
    """The text of slurm.conf with what it includes in the places of that; None where others than root's may not read
    one of them. Raises OSError."""
    read = read or _public
    left = _MOST_INCLUDES

    def text_of(path: Path) -> str | None:
        nonlocal left
        text = read(path)
        lines: list[str] = []
        for line in (text or "").splitlines():
            words = line.split()
            if len(words) > 1 and words[0].lower() == "include" and left:
                left -= 1
                inner = text_of(path.parent / words[1])
                if inner is None:
                    return None
                lines.append(inner)
            else:
                lines.append(line)
        return "\n".join(lines) if text is not None else None

    return text_of(conf)


def _public(path: Path) -> str | None:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read() if os.fstat(file.fileno()).st_mode & stat.S_IROTH else None


def moved_pmix(plugin: str, where: str) -> tuple[bytes, str] | None:
    """The plugin's bytes with *where* as the directory of libpmix, which it has as a text of its own, and the path
    of that library; None where it has none. Raises OSError.

    Slurm loads it by that path alone (mpi_pmix.c, _libpmix_open), where an image may have its MPI's own.
    """
    data = Path(plugin).read_bytes()
    for found in re.finditer(rb"(/[\w./+-]{1,200})\0", data):
        library = os.path.join(os.fsdecode(found[1]), "libpmix.so")
        if len(found[1]) >= len(where) and os.path.isfile(library):
            moved = os.fsencode(where).ljust(len(found[1]), b"\0")
            return data[: found.start(1)] + moved + data[found.end(1) :], library
    return None


def scratch(own: dict[str, str]) -> str:
    """Where slurmstepd has MPI's processes make their directories (TmpFS), with ``%n`` for the node's name; "" where
    that is /tmp, which every container has. Pure but for the host's name."""
    found = own.get("tmpfs", "").replace("%h", os.uname().nodename.partition(".")[0])
    return found if found.startswith("/") and found.rstrip("/") != "/tmp" else ""  # noqa: S108 - compared


def munge_socket(own: dict[str, str]) -> str:
    """Where munge listens, by AuthInfo. Pure."""
    found = re.search(r"(?:^|,)socket=([^,]+)", own.get("authinfo", ""))
    return found[1] if found else _MUNGE


def for_containers(text: str, where: str, socket: str) -> str:
    """The configuration as commands in containers read it. Pure."""
    kept = _SETTING.sub("", text).rstrip("\n")
    return (
        f"{kept}\nPluginDir={where}/plugins\nAuthInfo=socket={where}/munge/{socket}\nPlugStackConfig={where}/etc/none\n"
    )
