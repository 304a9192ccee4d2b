"""What Torque says of a job: ids, argument vectors, resource lists and mom's .JB files. Pure.

Facts about the formats were measured on a Torque 6.1 pbs_mom and read in its source (``src/resmom/prolog.c`` for the
argument vectors, ``src/server/job_recov.c`` for the .JB, ``src/lib/Libattr`` for sizes and times,
``src/server/node_manager.c`` for nodes requests).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

# The server's name may have a port (``host:15001``, Torque's pbsd_main.c), and job_suffix_alias is whatever a manager
# has set: letters of DNS alone would make a site's jobs unknown here.
_JOB_ID = re.compile(
    r"([0-9]{1,18})(?:-([0-9]{1,9})|\[([0-9]{0,9})\])?(?:\.((?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._:+=@%,~-]*))?", re.ASCII
)
_ID_LIMIT = 255  # bytes of a file's name (NAME_MAX): a job's marker has its id for a name
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]", re.ASCII)
# 20 digits: a size Torque cannot hold, -1gb too, comes as 2^63-1 of its unit (observed).
_SIZE = re.compile(r"([0-9]{1,20})([kmgtp]?)([bw]?)", re.IGNORECASE | re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_SCALE = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_WORD = 4  # bytes, as mom counts them
_DIGITS = 20  # what a C long can have with its sign; more is no number of Torque's
_NAME_LIMIT = 100
_JOB_BASE = 61  # PBS_JOBBASE in Torque's server_limits.h


class BadValue(ValueError):
    """A value Torque would not have sent; ``str()`` names it and says what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobId:
    """A job id: ``12.server``, ``12-3.server``, ``12[3].server`` or the array itself, ``12[].server``."""

    text: str
    number: int
    array_index: int | None
    array_parent: bool
    server: str

    @property
    def safe(self) -> str:
        """The id as a name for files, containers and cgroups of our own: ``16[0].vm`` becomes ``16-0.vm``; a long one
        ends in a hash."""
        name = _UNSAFE.sub("_", self.text.replace("[", "-").replace("]", ""))
        if len(name) <= _NAME_LIMIT:
            return name
        return f"{name[:_NAME_LIMIT - 13]}-{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"

    @property
    def file_prefix(self) -> str:
        """What mom's own files of the job are called: ``16[0].vm`` becomes ``16-0.vm``, a long one is cut."""
        return self.text.replace("[", "-").replace("]", "")[:_JOB_BASE]


def parse_job_id(text: str) -> JobId:
    """Parse a job id strictly: no path, no pattern, no surprise. Raises BadValue."""
    match = _JOB_ID.fullmatch(text) if len(text) <= _ID_LIMIT else None
    if match is None:
        raise BadValue(f"{text[:80]!r} is not a job id; one looks like 12.server, 12[3].server or 12-3.server")
    number, dashed, bracketed, server = match.groups()
    index = dashed if dashed is not None else bracketed
    return JobId(
        text=text, number=int(number), array_index=int(index) if index else None, array_parent=index == "",
        server=server or "",
    )


def parse_size(text: str) -> int:
    """Parse a Torque size into bytes: ``b kb mb gb tb pb``, ``w kw mw …`` (words of 4 bytes), bare is bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadValue(f"{text[:80]!r} is not a size; write a whole number and b, kb, mb, gb, tb or w, kw, mw, gw, tw")
    count, scale, unit = match.groups()
    return (int(count) << _SCALE[scale.lower()]) * (_WORD if unit.lower() == "w" else 1)


def parse_duration(text: str) -> int:
    """Parse ``SECONDS`` or ``[[DD:]HH:]MM:SS[.fraction]`` into whole seconds, rounded as Torque does: half goes up.

    Raises BadValue.
    """
    whole, dot, fraction = text.strip().partition(".")
    parts = whole.split(":")
    if not 1 <= len(parts) <= 4 or not all(_is_number(one) for one in parts) or (dot and not _is_number(fraction)):
        raise BadValue(f"{text[:80]!r} is not a time; write seconds or [[DD:]HH:]MM:SS")
    seconds = 1 if fraction[:1] >= "5" else 0
    for value, weight in zip(reversed(parts), (1, 60, 3600, 86400), strict=False):
        seconds += int(value) * weight
    return seconds


def _is_number(text: str) -> bool:
    """Whether *text* is a number as Torque writes them: other alphabets' digits, signs and endless rows are not."""
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One part of ``nodes=``: how many nodes (or which), and what on each."""

    count: int
    name: str | None
    ppn: int
    gpus: int
    properties: tuple[str, ...]


def parse_nodes(text: str) -> tuple[NodeSpec, ...]:
    """Parse ``2:ppn=4:gpus=1+3:bigmem`` or ``host1:ppn=2+host2``. Raises BadValue."""
    return tuple(_node_spec(part, text) for part in text.split("#", 1)[0].split("+"))


def _node_spec(part: str, whole: str) -> NodeSpec:
    head, *rest = part.split(":")
    if head.startswith(("ppn=", "gpus=")):  # "nodes=ppn=4": Torque reads a missing count as one node
        head, rest = "1", [head, *rest]
    if not head:
        raise BadValue(f"{whole[:80]!r} is not a nodes request; write for example 2:ppn=4+1:bigmem")
    counts = {"ppn": 1, "gpus": 0}
    properties = []
    for word in rest:
        key, equals, value = word.partition("=")
        if equals and key in counts:
            if not _is_number(value):
                raise BadValue(f"{word[:40]!r} in nodes={whole[:80]} needs a whole number after '='")
            counts[key] = int(value)
        elif word:
            properties.append(word)
    is_count = _is_number(head)
    return NodeSpec(
        count=int(head) if is_count else 1, name=None if is_count else head, ppn=counts["ppn"], gpus=counts["gpus"],
        properties=tuple(properties),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """A parsed Resource_List. Sizes in bytes, times in seconds; ``raw`` has every item as written.

    An item may be missing because it did not fit into mom's 2,048-byte buffer: absent is not "none asked for".
    """

    mem: int | None = None
    vmem: int | None = None
    pmem: int | None = None
    pvmem: int | None = None
    walltime: int | None = None
    cput: int | None = None
    ncpus: int | None = None
    nodes: tuple[NodeSpec, ...] = ()
    raw: tuple[tuple[str, str], ...] = ()


_SIZES = ("mem", "vmem", "pmem", "pvmem")
_TIMES = ("walltime", "cput")


def parse_resource_list(text: str) -> Resources:
    """Parse the fifth argument of a prologue: ``nodes=1:ppn=2,mem=200mb,walltime=00:05:00,…``. Raises BadValue.

    mom joins the items with commas and escapes none, so a text resource can hold what looks like another item: of two
    sizes or times of one name the smaller counts, and a user gains nothing by writing a second one.
    """
    return _resources(_items(text))


def _resources(items: Sequence[tuple[str, str]]) -> Resources:
    sizes: dict[str, int] = {}
    times: dict[str, int] = {}
    nodes: tuple[NodeSpec, ...] = ()
    ncpus = None
    for key, value in items:
        if key in _SIZES:
            size = _named(key, value, parse_size)
            sizes[key] = min(size, sizes.get(key, size))
        elif key in _TIMES:
            seconds = _named(key, value, parse_duration)
            times[key] = min(seconds, times.get(key, seconds))
        elif key == "nodes":
            nodes = nodes or parse_nodes(value)
        elif key == "ncpus" and _is_number(value):
            ncpus = min(int(value), int(value) if ncpus is None else ncpus)
    return Resources(
        mem=sizes.get("mem"), vmem=sizes.get("vmem"), pmem=sizes.get("pmem"), pvmem=sizes.get("pvmem"),
        walltime=times.get("walltime"), cput=times.get("cput"), ncpus=ncpus, nodes=nodes, raw=tuple(items),
    )


def _named(key: str, value: str, parse: Callable[[str], int]) -> int:
    try:
        return parse(value)
    except BadValue as error:
        raise BadValue(f"{key}: {error}") from None


def _understood(items: Sequence[tuple[str, str]]) -> tuple[Resources, str]:
    """The resources and "", or none and what is wrong: whoever asks for nonsense still has a job with an id."""
    try:
        return _resources(items), ""
    except BadValue as error:
        return Resources(raw=tuple(items)), str(error)


def _items(text: str) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (item.partition("=") for item in text.split(",") if item)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrologueArgs:
    """The prologue's eight arguments. ``wrong`` says what of the resources cannot be understood, "" if nothing."""

    job_id: JobId
    user: str
    group: str
    name: str
    resources: Resources
    queue: str
    account: str
    script_path: str
    wrong: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpilogueArgs:
    """The epilogue's eleven arguments. On a sister session id and exit status are always 0 (observed)."""

    job_id: JobId
    user: str
    group: str
    name: str
    session_id: int
    resources: str
    resources_used: str
    queue: str
    account: str
    exit_status: int
    script_path: str


def parse_prologue_argv(argv: Sequence[str]) -> PrologueArgs:
    """Parse the arguments after argv[0]; an older mom leaves the last one out.

    Raises BadValue for what leaves no job to speak of: another number of arguments, or no job id.
    """
    if len(argv) not in (7, 8):
        raise BadValue(f"a prologue gets 7 or 8 arguments, not {len(argv)}")
    padded = [*argv, ""][:8]
    job_id, user, group, name, text, queue, account, script_path = padded
    resources, wrong = _understood(_items(text))
    return PrologueArgs(
        job_id=parse_job_id(job_id), user=user, group=group, name=name, resources=resources, queue=queue,
        account=account, script_path=script_path, wrong=wrong,
    )


def parse_epilogue_argv(argv: Sequence[str]) -> EpilogueArgs:
    """Parse the arguments after argv[0]; an older mom leaves the last one out. Raises BadValue."""
    if len(argv) not in (10, 11):
        raise BadValue(f"an epilogue gets 10 or 11 arguments, not {len(argv)}")
    job_id, user, group, name, session, resources, used, queue, account, status, script = [*argv, ""][:11]
    return EpilogueArgs(
        job_id=parse_job_id(job_id), user=user, group=group, name=name, session_id=_integer(session, "a session id"),
        resources=resources, resources_used=used, queue=queue, account=account,
        exit_status=_integer(status, "an exit status"), script_path=script,
    )


def _integer(text: str, what: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise BadValue(f"{text[:40]!r} is not {what}; it is a whole number")
    return int(text)


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
    resources, wrong = _understood(_listed(root))
    owner = _text(root, "euser") or _text(root, "Job_Owner").partition("@")[0]
    return JobFile(
        job_id=parse_job_id(_text(root, "jobid")), user=owner, group=_text(root, "egroup"),
        uid=_maybe(_text(root, "execution_uid")), gid=_maybe(_text(root, "execution_gid")),
        name=_text(root, "Job_Name"), queue=_text(root, "queue"), resources=resources,
        variables=_variables(_text(root, "Variable_List")), exec_host=_text(root, "exec_host"),
        session_id=_maybe(_text(root, "session_id")), node_id=_maybe(_text(root, "nodeid")),
        start_time=_maybe(_text(root, "start_time")),
        interactive=_text(root, "interactive") not in ("", "0", "False"),  # the port qsub waits on
        wrong=wrong,
    )


def _text(root: ElementTree.Element, tag: str) -> str:
    """The text of a job attribute, else of a fixed field: mom leaves the fixed ``<queue/>`` empty (observed)."""
    for path in (f"attributes/{tag}", tag):
        found = root.find(path)
        if found is not None and (text := (found.text or "").strip()):
            return text
    return ""


def _listed(root: ElementTree.Element) -> list[tuple[str, str]]:
    return [(one.tag, (one.text or "").strip()) for one in root.iterfind("attributes/Resource_List/*")]


def _maybe(text: str) -> int | None:
    return int(text) if _is_number(text) else None


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
    counts: dict[str, int] = {}
    for part in exec_host.split("+"):
        host, _, indices = part.partition("/")
        counts[host] = counts.get(host, 0) + sum(_indices(piece) for piece in indices.split(","))
    return of_host(counts, node), sum(counts.values())


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
    if not _is_number(first):
        return 0
    return max(1, int(last) - int(first) + 1) if dash and _is_number(last) else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job on this execution host, from facts the user cannot forge."""

    id: JobId
    user: str
    group: str
    uid: int
    gid: int
    groups: tuple[int, ...]  # supplementary, without gid
    home: str
    name: str
    resources: Resources
    queue: str
    account: str
    script_path: str | None
    work_dir: str | None
    tmpdir: str | None
    nodefile: str | None
    interactive: bool
    slots_here: int
    slots_total: int
    job_file: str | None = None  # the name of its .JB where that was found already
