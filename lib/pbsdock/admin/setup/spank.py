"""The SPANK plugin by which job steps of Slurm come into containers: compiled where Slurm's headers are, named in
plugstack.conf.

Slurm loads no plugin that was compiled for another release (22.05.x takes any 22.05; plugin.c, _verify_syms). What
plugstack.conf includes and is not there is passed over without a word (plugstack.c, _spank_conf_include): a host
without pbsdock, or without the plugin, is none the worse for the line.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from pbsdock.admin.setup import first_process, slurm_config
from pbsdock.admin.setup.errors import SetupError
from pbsdock.admin.setup.places import Places
from pbsdock.admin.setup.render import Renderer
from pbsdock.admin.setup.versions import Version

SOURCE = "spank.c"
FLAGS = ("-std=c11", "-Os", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-s", "-Wl,--build-id=none")
# Below a version's directory.
PLUGIN, STACK, STEP, WORDS = (f"slurm/{name}" for name in ("pbsdock-spank.so", "plugstack.conf", "step", "step.words"))
_NUMBER = re.compile(r"#define\s+SLURM_VERSION_NUMBER\s+0x([0-9a-f]{2})([0-9a-f]{2})[0-9a-f]{2}", re.IGNORECASE)
_RELEASE = re.compile(r"slurm(?:-wlm)? ([0-9]+\.[0-9]{2})")
_STAMP = "# For Slurm "
_PLACES = ("/usr/include", "/usr/local/include", "/opt/slurm/include")
_SEARCH = "/usr/sbin:/usr/local/sbin:/opt/slurm/sbin"
_HELP = "job steps (srun, salloc) run bare; apt-get install gcc libc6-dev libslurm-dev, and run install.sh again"


def headers() -> Path | None:
    """The directory with ``slurm/spank.h``: beside slurmd's own, or a usual one."""
    slurmd = shutil.which("slurmd", path=_SEARCH)
    beside = [str(Path(slurmd).resolve().parents[1] / "include")] if slurmd else []
    return next((path for path in map(Path, (*beside, *_PLACES)) if (path / "slurm/spank.h").is_file()), None)


def release_of_headers(where: Path) -> str:
    """Such as ``22.05``; "" if that is not to be told."""
    try:
        found = _NUMBER.search((where / "slurm/slurm_version.h").read_text())
    except OSError:
        return ""
    return f"{int(found[1], 16)}.{int(found[2], 16):02d}" if found else ""


def release_of_slurmd() -> str:
    """The same of the slurmd that is here; "" if there is none."""
    slurmd = shutil.which("slurmd", path=_SEARCH)
    if slurmd is None:
        return ""
    done = subprocess.run([slurmd, "-V"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    found = _RELEASE.search(done.stdout)
    return found[1] if found else ""


def release_of(version: Version) -> str:
    """For which release a version has the plugin; "" if it has none."""
    try:
        first = (version.home / STACK).read_text().partition("\n")[0]
    except OSError:
        return ""
    return first.removeprefix(_STAMP)


def lacking() -> str:
    """Why it cannot be compiled here, "" if it can."""
    if (where := headers()) is None:
        return f"Slurm's headers are not here: {_HELP}"
    if _compiler() is None:
        return f"there is no C compiler: {_HELP}"
    built_for, runs = release_of_headers(where), release_of_slurmd()
    if runs and built_for != runs:
        return f"Slurm's headers are of release {built_for}, slurmd of {runs}: {_HELP}"
    return ""


def is_to_come(version: Version, places: Places) -> bool:
    """Whether a version lacks the plugin, or has another release's, and could have it now."""
    if places.slurm_conf is None or lacking():
        return False
    where = headers()
    return where is not None and release_of(version) != release_of_headers(where)


def put(version: Version, renderer: Renderer, source: Path) -> tuple[list[str], str]:
    """Compile it, from the directory *source*, into a version that is being made.

    Returns the files' names below the version, and in one sentence why there are none. Raises OSError.
    """
    run = version.library / "pbsdock" / first_process.RUN.name
    problem = lacking() if run.is_file() else f"there is no {first_process.RUN.name}: {_HELP}"
    where = headers()
    if problem or where is None:
        return [], problem
    (version.home / "slurm").mkdir()
    try:
        _compile(source, version.home / PLUGIN, where)
    except SetupError as error:
        shutil.rmtree(version.home / "slurm")
        return [], f"{error}: {_HELP}"
    shutil.copyfile(run, version.home / STEP)
    (version.home / WORDS).write_bytes(b"".join(word.encode() + b"\0" for word in renderer.step_words()))
    line = f"optional {version.home / PLUGIN} {version.home / STEP} {renderer.places.run_dir}"
    (version.home / STACK).write_text(f"{_STAMP}{release_of_headers(where)}\n{line}\n")
    for name, mode in ((PLUGIN, 0o644), (STEP, 0o755), (WORDS, 0o644), (STACK, 0o644)):
        (version.home / name).chmod(mode)
    return [PLUGIN, STEP, WORDS, STACK], ""


def _compiler() -> str | None:
    """One with the C library that slurmd has."""
    return next((found for name in ("cc", "gcc") if (found := shutil.which(name))), None)


def _compile(source: Path, target: Path, where: Path) -> None:
    """Raises SetupError."""
    command = [_compiler() or "cc", *FLAGS, f"-I{where}", "-o", str(target), SOURCE]
    done = subprocess.run(
        command, cwd=source, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line] or ["the compiler says nothing"]
        raise SetupError(f"the SPANK plugin cannot be compiled: {said[0]}")


def told(places: Places, version: Version | None) -> str:
    """What is wrong with the plugin of a version, or lacking beside it, in one sentence; "" for nothing."""
    assert places.slurm_conf is not None
    if version is None:
        return ""
    built_for, runs = release_of(version), release_of_slurmd()
    if not built_for:
        return lacking() or "the SPANK plugin is not there: run install.sh again"
    if runs and built_for != runs:
        return (
            f"the SPANK plugin is for Slurm {built_for}, slurmd is {runs}, and job steps run bare: run install.sh again"
        )
    if not slurm_config.has_stack_line(places):
        stack = slurm_config.stack_file(places)
        return f"{stack} lacks the line {slurm_config.stack_line(places)}, without which job steps run bare"
    return ""
