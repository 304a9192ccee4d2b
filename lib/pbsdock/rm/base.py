"""The seam between pbsdock and a resource manager: what a batch system's daemon on this node is asked.

:class:`ResourceManager` is implemented by :mod:`pbsdock.rm.torque` and :mod:`pbsdock.rm.slurm`. All others see a
scheduler's request as a :class:`Grant` only, a job as a :class:`Job`, and put a manager's own names into sentences from
its :class:`Words`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pbsdock.core.pathrules import ClosedPaths


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the scheduler gave a job on this node. Bytes and seconds; None where nothing was asked for.

    ``memory_from`` is the resource that asked for the memory and ``memory_text`` its value as written, for sentences.
    ``gpu_ids`` is empty where the manager says how many, and not which. ``hosts`` are the whole job's, each once;
    empty where they are not known.
    """

    memory_bytes: int | None = None
    memory_from: str = ""
    memory_text: str = ""
    memory_swap_bytes: int | None = None  # memory and swap together
    cpus: int = 1  # whole ones
    whole_node: bool = False  # no other job comes here: all CPUs of the node are its
    slots_here: int = 1
    slots_total: int = 1
    gpus: int = 0
    gpu_ids: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    host_slots: tuple[int, ...] = ()  # of each of them
    walltime_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a manager calls things. ``ask_*``: how a user asks for more, as ``qsub -l mem=SIZE``."""

    name: str  # of the manager itself
    request: str  # the option by which resources are asked for
    ask_memory: str
    ask_cpus: str
    ask_gpus: str
    ask_room: str  # for more processes
    ask_walltime: str
    end_command: str  # by which a user ends a job
    choose_shell: str
    choose_name: str
    give_variable: str
    rerun: str
    signal_commands: str
    adopter: str  # the program, or the way, by which a process becomes the job's
    impossible_size: str  # where a size comes from that no node can have
    job_id_variable: str
    work_dir_variable: str  # where the job was submitted
    node_file_variable: str  # names the file that lists the job's hosts, a line for each slot
    submit: str  # the command
    start_variables: tuple[str, ...]  # where the job starts, as its user wrote it
    own_variables: tuple[str, ...]  # shell patterns of the variables that are the manager's, not the user's

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that expand in a directive."""
        return ("USER", "HOME", self.job_id_variable, self.work_dir_variable, "TMPDIR")

    @property
    def path_variables(self) -> tuple[str, ...]:
        """Those of them that are absolute paths."""
        return ("HOME", self.work_dir_variable, "TMPDIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job on this node, from facts its user cannot forge; ``work_dir`` alone is the user's to choose."""

    id: str
    safe: str  # the id as a name for files, containers and cgroups of our own
    user: str
    group: str
    uid: int
    gid: int
    groups: tuple[int, ...]  # supplementary, without gid
    home: str
    name: str
    queue: str  # or partition
    script_path: str | None
    work_dir: str | None
    tmpdir: str | None
    nodefile: str | None
    gpufile: str | None = None  # the manager's list of its GPUs
    interactive: bool
    on_demand: bool = False  # prepared for the run hook, not the prologue
    job_file: str  # what the manager calls the file that is there while the job lives, see ResourceManager.live
    grant: Grant
    words: Words


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTool:
    """A program of the manager's own that is given to containers: its path on this node, the loader it names ("" for a
    static one), and (name, path) of every library it needs.

    ``programs`` are (name, path) of all where there are several; ``files`` and ``texts`` are (name below the directory
    of tools, path or content) of what else belongs to them, ``directories`` (source, target) of what is mounted as it
    is. ``scratch`` is a directory, with ``%n`` for a node's name, that tasks want to write to, "" for none. The user
    ``account`` has to have a name in the container, "" for nobody.
    """

    program: str
    loader: str = ""
    libraries: tuple[tuple[str, str], ...] = ()
    programs: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    texts: tuple[tuple[str, bytes], ...] = ()
    directories: tuple[tuple[str, str], ...] = ()
    scratch: str = ""
    account: str = ""


class Announced(Protocol):
    """A job as the arguments of its prepare hook name it, before anything is looked up.

    ``wrong`` says what of its resources cannot be understood, "" if nothing.
    """

    @property
    def id(self) -> str: ...
    @property
    def safe(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def script_path(self) -> str: ...
    @property
    def job_file(self) -> str: ...
    @property
    def wrong(self) -> str: ...

    def job(self) -> Job:
        """Look up the rest. Raises KeyError for a user this node does not know."""


class Live(Protocol):
    """A job that is alive on this node, as the manager itself tells of it; ``uid`` None where it does not say whose.

    ``wrong`` says what of its resources cannot be understood, "" if nothing. ``has_more``: whether it was granted what
    the arguments of its prepare hook cannot have told, or not all. ``hosts`` are the job's, its mother superior first;
    ``is_sister``: whether this node is another; ``slots`` it has here, 0 if none. ``run`` tells this run of the job
    from others with its id, the same on all its nodes (:func:`pbsdock.core.ticket.run_of`); "" if nothing does.
    ``directive`` is the user's own, that came with the request for the job instead of in its script.
    """

    @property
    def id(self) -> str: ...
    @property
    def uid(self) -> int | None: ...
    @property
    def wrong(self) -> str: ...
    @property
    def has_more(self) -> bool: ...
    @property
    def hosts(self) -> tuple[str, ...]: ...
    @property
    def is_sister(self) -> bool: ...
    @property
    def slots(self) -> int: ...
    @property
    def run(self) -> str: ...
    @property
    def directive(self) -> str: ...

    def job(self, env: Mapping[str, str]) -> Job:
        """Look up the rest. *env* is the user's: of it only paths are taken, and only where they are what the manager
        itself would have made for this job. Raises KeyError for a user this node does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The job that a release hook was called for; ``exit_status`` None where the hook was not told it."""

    id: str
    exit_status: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """How a container comes into the manager's accounting: ``told`` is for the run hook, as fields of its answer.

    ``skipped`` says why it does not, "" if it does.
    """

    told: Mapping[str, str] = field(default_factory=dict)
    skipped: str = ""


class ResourceManager(Protocol):
    """One manager's daemon on this node. Any thread. *argv* is what a root hook was called with, less its own name,
    *env* the part of its environment that it passes on.

    Many methods because this is all that is asked of a manager, by every part of the agent.
    """

    words: Words  # what it calls things
    closed: ClosedPaths  # its own directories, which are not given to containers
    prepares_at_start: bool  # by its script when its run hook comes, since no hook of root's is given the script before
    moves_tasks: bool  # whether each task is to be brought to where its own run hook is, before it runs anything
    holds_children: bool  # whether containers that a job starts itself are limited and ended with it
    polite_end_ms: int  # how long what a leader that SIGTERM has ended leaves running is spared, 0: after no signal

    def job_id(self, text: str) -> str:
        """A job's id as records have it. Raises BadValue for what is none."""

    def announced(self, argv: Sequence[str], env: Mapping[str, str]) -> Announced:
        """The job a prepare hook was called for. Raises BadValue if that cannot be told."""

    def ended(self, argv: Sequence[str], env: Mapping[str, str]) -> Ended:
        """The job a release hook was called for. Raises BadValue if that cannot be told."""

    def named(self, argv: Sequence[str], env: Mapping[str, str]) -> str:
        """What arguments that need make no sense have for a job id, unchecked; "" for none."""

    def script_named(self, argv: Sequence[str], env: Mapping[str, str]) -> str:
        """The script's path in arguments that need make no sense; "" for none."""

    def submitted(self, script: bytes) -> bytes:
        """The script as its user has submitted it, of what the manager keeps."""

    def live(self) -> frozenset[str]:
        """The ``job_file`` of every job that is alive here. Raises OSError if they cannot be read."""

    def is_live(self, job_id: str) -> bool:
        """Whether a job is alive here at this moment. Raises BadValue; OSError if that cannot be read."""

    def find(self, job_id: str, *, waits: bool = True) -> Live | None:
        """A live job; *waits* as long as a job's shell may be there before the manager's word of it. None if there is
        none. Raises BadValue."""

    def knows(self, job_id: str) -> bool | None:
        """Whether the manager's server has the job, not over; None where it cannot be asked. May take ten seconds."""

    def job_of(self, pid: int, sessions: Sequence[int]) -> str:
        """The live job that process *pid* of this node belongs to, "" if it is none's: by what the manager, or the
        kernel, has written down, never by what the process says. *sessions* are the process's, and those of the
        processes it descends from, the nearest first. May wait for a job that has just begun."""

    def shell_chosen(self, uid: int, argv: Sequence[str], job_file: str) -> bool:
        """Whether the program the job is run by was asked for by its user, as far as the manager knows: an image
        without it is then refused, else /bin/sh serves."""

    def chooses_shell(self, script: bytes) -> bool:
        """Whether the script asks for a shell, in the manager's own lines."""

    def task_client(self) -> tuple[ClientTool | None, str]:
        """The program by which a job's script starts tasks on its nodes, and ""; or None and, in a sentence, why there
        is none for containers."""

    def adopts(self) -> tuple[str, str]:
        """By which program containers come into the manager's accounting on this node, and "" ; or "", and a sentence
        that says why they cannot, what is lost by that, and what helps."""

    def heeds_errors(self) -> tuple[bool | None, str]:
        """Whether the manager takes a node out of service whose node check reports an error, and a sentence; None where
        that cannot be asked from here."""

    def is_running(self) -> bool:
        """Whether the manager's daemon runs on this node."""

    def is_idle(self, job_id: str) -> bool:
        """Whether a job lives that has no process here at the moment, and so is not in :meth:`live`: an allocation
        between two of its steps. May take ten seconds."""

    def nodes_here(self, job_id: str) -> frozenset[str]:
        """What the manager calls this host among the nodes of a job; more than one name where it has several daemons
        here."""

    def is_task(self, pid: int) -> bool:
        """Whether process *pid* is, by the kernel's word, of a job's step instead of its own command; False where the
        manager's tasks are known by what is under way (the first start is the command's)."""

    def place_of(self, pid: int, job_id: str, uid: int) -> None:
        """Whether process *pid* may have tasks of job *job_id* of user *uid* moved to where it is itself.

        Raises Refusal, NodeFault.
        """

    def take_in(self, first: int, hook: int, job_id: str, uid: int) -> str:
        """Bring process *first* of a container, which has run nothing yet, to where the manager counts, limits and ends
        the job *job_id* of user *uid*, whose run hook is process *hook*. Returns the cgroup, from its hierarchy's root,
        in which its memory and CPU time are counted from now on, "" if that is still the container's own.

        Raises Refusal for a hook that is not in that job, NodeFault.
        """

    def released(self, job_id: str) -> None:
        """Nothing of a job that is over here is left: tidy up where the manager could not, for what :meth:`take_in` has
        brought there."""

    def adopters(self, job_id: str, process: int, *, hook: str, has_place: bool) -> list[list[str]]:
        """The commands by which the session of *process* comes to be counted as a job's that has more than one already
        or (not *has_place*) has none but its shell's; each is run as the job's owner, with the variables that are the
        manager's own, when the one before has ended well. *hook* is a task that does nothing. Empty: it is not
        counted, or is so already."""

    def adopt(self, first: int, hook: int) -> Adoption:
        """Have the container of process *first* counted as the job of the run hook *hook* (process ids)."""
