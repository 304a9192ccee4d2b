"""Mom's .JB files (``src/server/job_recov.c``), and what they say of this host. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from pbsdock.core.errors import BadValue
from pbsdock.rm.torque.ids import JobId, parse_job_id
from pbsdock.rm.torque.resources import Resources, understood
from pbsdock.rm.torque.tasks import TaskRequest, parse_task_requests
from pbsdock.rm.torque.values import is_number

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """What a .JB says; written by mom as root, so every field but ``variables`` can be believed.

    ``variables`` is the user's: mom escapes neither comma nor backslash in it, so a value can pass for another
    variable; one with a control character leaves the whole list empty, and bytes that are not UTF-8 come out mangled
    (all observed).
    """

    job_id: JobId
    user: str
    group: str
    uid: int | None
    gid: int | None
    name: str
    queue: str
    resources: Resources
    variables: tuple[tuple[str, str], ...]
    exec_host: str
    session_id: int | None
    node_id: int | None  # 0 on the mother superior
    start_time: int | None
    interactive: bool
    tasks: tuple[TaskRequest, ...] = ()  # qsub -L
    exclusive: bool = False  # qsub -n
    cookie: str = ""  # made by the mother superior for this run of the job (generate_cookie in mom's start_exec.c)
    wrong: str = ""  # what of the resources cannot be understood


class _NoDocumentType(ElementTree.TreeBuilder):
    """Refuses a document type in whatever encoding: without one there are no entities to expand."""

    def doctype(self, _name: str, _pubid: str, _system: str) -> None:
        raise BadValue("a .JB has no document type; this file is not mom's")


def parse_jb(data: bytes) -> JobFile:
    """Parse a .JB. Raises BadValue for what is no such file; document types and entities are refused."""
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\0" in data:  # the last: UTF-16 and UTF-32
        raise BadValue("a .JB has no document type; this file is not mom's")
    parser = ElementTree.XMLParser(target=_NoDocumentType())  # noqa: S314 - no document type, see above
    try:
        parser.feed(data)
        root = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        if isinstance(error, BadValue):
            raise
        raise BadValue(f"the .JB is not well-formed: {error}") from None
    if not isinstance(root, ElementTree.Element) or root.tag != "job":
        raise BadValue("the .JB has no job in it; this file is not mom's")
    resources, wrong = understood(_listed(root, "Resource_List"))
    tasks: tuple[TaskRequest, ...] = ()
    try:
        if _text(root, "request_version") != "1":  # a server with cgroups writes one for -l as well
            tasks = parse_task_requests(_listed(root, "req_information"))
    except BadValue as error:
        wrong = wrong or str(error)
    owner = _text(root, "euser") or _text(root, "Job_Owner").partition("@")[0]
    return JobFile(
        job_id=parse_job_id(_text(root, "jobid")),
        user=owner,
        group=_text(root, "egroup"),
        uid=_maybe(_text(root, "execution_uid")),
        gid=_maybe(_text(root, "execution_gid")),
        name=_text(root, "Job_Name"),
        queue=_text(root, "queue"),
        resources=resources,
        variables=_variables(_text(root, "Variable_List")),
        exec_host=_text(root, "exec_host"),
        session_id=_maybe(_text(root, "session_id")),
        node_id=_maybe(_text(root, "nodeid")),
        start_time=_maybe(_text(root, "start_time")),
        interactive=_text(root, "interactive") not in ("", "0", "False"),  # the port qsub waits on
        tasks=tasks,
        exclusive=_text(root, "node_exclusive") not in ("", "0", "False"),
        cookie=_text(root, "cookie"),
        wrong=wrong,
    )


def _text(root: ElementTree.Element, tag: str) -> str:
    """The text of a job attribute, else of a fixed field: mom leaves the fixed ``<queue/>`` empty (observed)."""
    for path in (f"attributes/{tag}", tag):
        found = root.find(path)
        if found is not None and (text := (found.text or "").strip()):
            return text
    return ""


def _listed(root: ElementTree.Element, tag: str) -> list[tuple[str, str]]:
    return [(item.tag, (item.text or "").strip()) for item in root.iterfind(f"attributes/{tag}/*")]


def _maybe(text: str) -> int | None:
    return int(text) if is_number(text) else None


def _variables(text: str) -> tuple[tuple[str, str], ...]:
    """Split ``A=1,B=x,y`` where a name follows a comma; what is no name belongs to the value before it."""
    found: list[tuple[str, str]] = []
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if equals and _VARIABLE.match(part):
            found.append((name, value))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]},{part}")
    return tuple(found)


def slots_on(exec_host: str, node: str) -> tuple[int, int]:
    """Count the slots of *node* and of the whole job in ``vm/0+n2/0-2`` (PBS_NUM_PPN is wrong for uneven requests)."""
    counts = Counter(names_of(exec_host))
    return of_host(counts, node), counts.total()


def names_of(exec_host: str) -> list[str]:
    """The host of every slot of ``vm/0+n2/0-2``, as the node file has them."""
    names: list[str] = []
    for part in exec_host.split("+"):
        host, _, indices = part.partition("/")
        names += [host] * sum(_indices(piece) for piece in indices.split(","))
    return names


def hosts_of(exec_host: str) -> tuple[str, ...]:
    """The hosts of ``vm/0+n2/0-2``, each once, the mother superior first."""
    return tuple(dict.fromkeys(part.partition("/")[0] for part in exec_host.split("+") if part))


def of_host(counts: Mapping[str, int], node: str) -> int:
    """What *counts* says of *node*, 0 if nothing.

    A host counts by its full name; where none has it, by the part before the first dot, since Torque's name for it may
    have another domain than its own, or none. Where several have that part, nobody can tell which it is: the least.
    """
    if node in counts:
        return counts[node]
    short = node.partition(".")[0]
    return min((count for host, count in counts.items() if host.partition(".")[0] == short), default=0)


def _indices(piece: str) -> int:
    first, dash, last = piece.partition("-")
    if not is_number(first):
        return 0
    return max(1, int(last) - int(first) + 1) if dash and is_number(last) else 1
