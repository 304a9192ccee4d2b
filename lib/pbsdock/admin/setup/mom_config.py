"""Mom's configuration: the lines pbsdock needs, the lines it refuses, the text with and without its block. Pure.

How mom reads it: ``read_config`` and ``setbool`` in Torque's ``src/resmom/mom_config.c`` and ``parse_config.c``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pbsdock.admin.setup.errors import SetupError
from pbsdock.admin.setup.places import Places

BEGIN = "# begin pbsdock (written by install.sh, removed by install.sh --uninstall)"
END = "# end pbsdock"
_BLOCK = re.compile(r"^# begin pbsdock .*?$(?:\n.*?)*?(?:^# end pbsdock(?:\n|\Z)|\Z)", re.MULTILINE)
_TRUE = re.compile(r"t|y|1|on\Z", re.IGNORECASE)
_MOST = 118  # mom reads its configuration in pieces of so many characters


def lines(places: Places) -> list[str]:
    """The lines pbsdock needs."""
    return [
        f"$job_starter {places.run_hook}",
        f"$node_check_script {places.node_check}",
        "$node_check_interval 1,jobstart,jobend",
        "$down_on_error true",
    ]


def values(text: str, name: str) -> list[str]:
    """The values of a parameter, comments and blanks taken off."""
    found = re.finditer(rf"^[ \t]*\${name}[ \t]+([^#\n]*)", text, re.MULTILINE)
    return [match[1].rstrip() for match in found]


def is_true(value: str) -> bool:
    """Whether mom takes the value for true: mom compares the beginning only."""
    return _TRUE.match(value) is not None


def check(text: str, places: Places) -> None:
    """Refuse a privileged job starter, another job starter or node check, and lines too long for mom.

    Raises SetupError.
    """
    where = places.mom_config
    if any(map(is_true, values(text, "job_starter_run_privileged"))):
        raise SetupError(
            f"{where} has $job_starter_run_privileged true: every user would run code as root (LD_PRELOAD through"
            " qsub -v); remove that line"
        )
    for value in values(text, "job_starter"):
        if value != str(places.run_hook):
            raise SetupError(
                f"{where} has another $job_starter ({value}); pbsdock's run hook must be the job starter: remove that"
                f" line, or have the other one start {places.run_hook}"
            )
    for value in values(text, "node_check_script"):
        if value != str(places.node_check):
            raise SetupError(
                f"{where} has another $node_check_script ({value}); call {places.node_check} from it and remove the"
                " line, then run this again"
            )
    for line in lines(places):
        if len(line) >= _MOST:
            raise SetupError(
                f"the line '{line}' is longer than the {_MOST - 1} characters mom reads; choose a shorter --prefix"
            )


def joined(text: str, places: Places) -> tuple[str, list[str]]:
    """The text with a block of the missing lines, and these lines. Values that the site has set stay."""
    rest = _BLOCK.sub("", text)
    missing = [line for line in lines(places) if not values(rest, line.split()[0][1:])]
    if missing and rest and not rest.endswith("\n"):
        rest += "\n"
    return (rest + "\n".join([BEGIN, *missing, END]) + "\n" if missing else rest), missing


def without(text: str, places: Places) -> str:
    """The text without our block, and without our lines outside of it: the files they name are removed."""
    ours = {f"$job_starter {places.run_hook}", f"$node_check_script {places.node_check}"}
    kept = [line for line in _BLOCK.sub("", text).splitlines(keepends=True) if line.rstrip("\n") not in ours]
    return "".join(kept)


def wrong(text: str, places: Places) -> Iterator[str]:
    """A sentence for each line that is missing, or should not be there."""
    where = places.mom_config
    if any(map(is_true, values(text, "job_starter_run_privileged"))):
        yield f"{where} has $job_starter_run_privileged true: every user can run code as root; remove that line"
    for line in lines(places):
        name, value = line[1:].split(" ", 1)
        found = values(text, name)
        if not found or (name in ("job_starter", "node_check_script") and found[-1] != value):
            yield f"{where} lacks the line {line}"


def warnings(text: str, places: Places) -> Iterator[str]:
    """A sentence for each setting that is allowed but unlikely to be intended."""
    found = values(text, "down_on_error")
    if found and not any(map(is_true, found)):
        where = places.mom_config
        yield f"{where} says $down_on_error {found[0]}: a faulty node goes on taking jobs and returning them"
