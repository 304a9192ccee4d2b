"""The register of events, from which the schema and the manual page are made."""

from __future__ import annotations

from typing import Any

# name -> (what it says, its own fields)
EVENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "agent.started": ("The agent answers from now on.", ("pid", "version")),
    "agent.stopped": ("The agent was told to stop.", ("pid",)),
    "agent.stuck": (
        "A thread that serves all jobs hangs (seconds: at one thing; 0: it has ended); the agent is started anew.",
        ("thread", "seconds"),
    ),
    "agent.adopted": ("After a restart the agent goes on with the records it found.", ("records", "running")),
    "agent.error": ("Something unforeseen, survived.", ("where", "reason", "uid")),
    "channel.failed": (
        "Agents of other nodes cannot ask this one; it is tried again.",
        ("port", "reason"),
    ),
    "channel.listening": ("Agents of other nodes can ask this one; signer: munge or key.", ("port", "signer")),
    "channel.refused": (
        "A connection of another host was closed without an answer (untold: as many more since the last such line).",
        ("address", "reason", "untold"),
    ),
    "child.ended": (
        "A container that a job has started itself is over; oom: processes of the job were killed for memory.",
        ("child", "container", "code", "oom", "seconds"),
    ),
    "child.refused": (
        "A docker command of a job was refused, and why; no container was left by it.",
        ("uid", "code", "sentence"),
    ),
    "child.started": (
        "A job has started a container itself (child: the user's name for it).",
        ("child", "container", "image", "image_id", "detached"),
    ),
    "client.refused": ("A client asked for what is not its own.", ("uid", "op", "reason")),
    "cgroup.created": ("The job's cgroup holds its limits.", ("cgroup",)),
    "cgroup.changed": (
        "The resource manager's file of the job grants other limits than its prologue was told; they are in force.",
        ("memory_bytes", "cpu_millis", "cpuset", "ms"),
    ),
    "cgroup.removed": ("The job's cgroup is gone.", ("cgroup",)),
    "config.refused": ("The site's file was to be read again and is wrong; what was in force stays.", ("reason",)),
    "config.reloaded": (
        "The site's file was read again: the keys that changed, and those that wait until the agent is started anew.",
        ("changed", "waiting"),
    ),
    "container.mismatch": ("A started container was not what was planned and was stopped.", ("container", "reason")),
    "container.oom": ("The kernel killed a process of the job for memory.", ("limit_bytes", "peak_bytes")),
    "container.removed": ("The job's container is gone.", ("container",)),
    "credentials.minted": (
        "The job's credentials at a store are made.",
        ("store", "kind", "handle", "buckets", "expires"),
    ),
    "credentials.refreshed": (
        "A session took the place of one that would have ended before the job.",
        ("store", "kind", "handle", "buckets", "expires"),
    ),
    "credentials.revoked": ("The job's credentials at a store are worth nothing any more.", ("store", "handle")),
    "engine.back": ("The Docker engine answers again.", ()),
    "engine.lost": ("The Docker engine does not answer.", ("reason",)),
    "env.dropped": ("Variables that are not UTF-8 cannot be passed on.", ("names",)),
    "events.dropped": ("Lines could not be written before this one.", ("count",)),
    "events.limited": (
        "A user caused more events of a kind than are written; so many were left out since the last such line.",
        ("of", "who", "count"),
    ),
    "history.failed": ("What became of a job cannot be written down; pbsdock why will not know of it.", ("reason",)),
    "image.collected": (
        "The disk with the images was above the high water mark; a warning where it still is.",
        ("count", "freed_bytes", "used_percent"),
    ),
    "image.pinned": ("The site keeps an image, whatever the disk is like.", ("image",)),
    "image.present": ("The image was here already.", ("image", "image_id", "digest", "private")),
    "image.mirror_failed": (
        "A mirror did not give an image; the next is asked, or the registry itself.",
        ("image", "mirror", "code", "reason"),
    ),
    "image.ordered": ("Root of another node has an image pulled here.", ("image", "sender")),
    "image.pulling": ("A pull began, after so many milliseconds in line.", ("image", "waited_ms")),
    "image.queued": (
        "A pull waits: for its turn, for the registry's rate, or because the registry wants that (why: turn, rate or"
        " registry), behind so many others.",
        ("image", "why", "ahead"),
    ),
    "image.progress": ("Layers of a pull.", ("image", "layers_done", "layers", "bytes_done", "bytes")),
    "image.pulled": ("A pull ended well.", ("image", "image_id", "digest", "size_bytes", "private", "mirror")),
    "image.removed": (
        "An image that pbsdock had pulled was removed (why: high-water or prune).",
        ("image", "image_id", "size_bytes", "why", "unused_s"),
    ),
    "image.retry": (
        "A registry is busy, or does not answer: the pull is tried again after so many seconds.",
        ("image", "code", "reason", "tries", "after_s"),
    ),
    "image.failed": ("A pull failed.", ("image", "code", "sentence")),
    "job.announced": (
        "A sister has found out what a job is to run in there (prepared, bare, unknown), before its first task came.",
        ("outcome", "reason"),
    ),
    "image.unpinned": ("The site keeps it no longer.", ("image",)),
    "job.adopted": ("Torque counts the container's processes as the job's.", ("pid",)),
    "job.adoption_skipped": ("Torque does not count the container's processes.", ("reason",)),
    "job.ended": ("The job's container is over.", ("code", "oom")),
    "job.fault": ("The node could not do its part.", ("code", "sentence")),
    "job.finished": (
        "The job is released; what it was and what it used here, and (all_…, on its first node) on all that have told.",
        (
            "exit_status",
            "code",
            "oom",
            "outcome",
            "image_digest",
            "memory_peak_bytes",
            "cpu_seconds",
            "io_read_bytes",
            "io_write_bytes",
            "pids_peak",
            "all_nodes",
            "all_told",
            "all_cpu_seconds",
            "all_memory_peak_bytes",
            "run_s",
            "total_s",
        ),
    ),
    "job.planned": ("Policy said yes.", ("image", "queue", "network")),
    "job.ready": ("Everything is prepared; the run hook may start the container.", ("image_id",)),
    "job.refused": ("The user's request was refused with a sentence.", ("code", "sentence")),
    "job.signalled": ("A signal was passed on to the container's processes.", ("signal", "processes")),
    "job.started": ("The container runs.", ("container", "pid")),
    "mount.skipped": ("A mount the job can do without was left out.", ("target", "origin", "reason")),
    "node.drained": ("An admin keeps new container jobs away (since: seconds since the epoch).", ("reason", "since")),
    "node.healthy": ("The node is back in service.", ("after_s",)),
    "node.undrained": ("An admin lets container jobs come again.", ("since",)),
    "node.unhealthy": ("The node goes out of service.", ("code", "sentence")),
    "orphan.reaped": ("The reaper removed what belonged to no live job.", ("kind", "name", "why")),
    "reaper.blocked": ("The reaper could not see everything and did nothing.", ("reason",)),
    "reaper.pass": ("A pass found something.", ("found", "reaped", "left")),
    "release.begun": ("Teardown begins.", ("why", "state")),
    "release.done": ("Teardown is complete and verified.", ("why",)),
    "release.failed": ("Something could not be torn down; the reaper goes on with it.", ("reason",)),
    "stage.begun": ("Files are copied before or after the job.", ("direction", "items")),
    "stage.progress": ("How far it is.", ("direction", "files_done", "files", "bytes_done", "bytes")),
    "stage.done": ("All files are where they belong.", ("direction", "files", "bytes", "skipped", "unverified")),
    "stage.failed": ("Some are not; the job was told.", ("direction", "code", "reason", "kept")),
    "store.failed": ("An object store did not do as asked.", ("store", "code", "reason")),
    "tools.lacking": (
        "Jobs on several nodes do not get the manager's own program for tasks in their containers.",
        ("reason",),
    ),
    "ticket.issued": (
        "The mother superior has signed what the job's other nodes prepare from (expires: seconds since the epoch).",
        ("nodes", "expires"),
    ),
    "ticket.refused": ("A sister does not take the ticket that a task brought.", ("uid", "code", "reason")),
    "task.started": ("A TM task runs inside the job's container.", ("task", "pid")),
    "task.ended": ("A TM task is over.", ("task", "code")),
}
# What a user's own programs can cause at will, and so is limited: lines at once, and lines a minute for ever, of one
# user. All else comes a few times a job, a container, a pull or a pass, of which Torque and the engine let nobody have
# any number, and is always written. A wide job's tasks fit into the first number.
AT_WILL: dict[str, tuple[int, float]] = {
    "agent.error": (10, 2),  # a message nobody has foreseen, sent again and again
    "child.ended": (1000, 50),
    "child.refused": (60, 10),
    "child.started": (1000, 50),
    "client.refused": (20, 4),
    "env.dropped": (20, 4),  # a start that is refused afterwards can be asked for again
    "job.adopted": (20, 4),
    "job.adoption_skipped": (600, 20),  # one a task
    "job.signalled": (60, 10),
    "mount.skipped": (200, 20),
    "store.failed": (20, 4),  # a container may ask for a session for ever while the store is down
    "task.ended": (600, 20),
    "task.started": (600, 20),
    "ticket.refused": (20, 4),
    "tools.lacking": (20, 4),
}
_ALWAYS = ("ts", "seq", "event", "level", "node")
COMMON = ("job", "incarnation", "user", "phase", "ms")
LEVELS = ("info", "warning", "error")
SCHEMA_VERSION = 1  # another one only where the rule below had to be broken
_RULE = (
    "Within a version events and fields are only added, and none changes its meaning or type: whoever reads passes over"
    " events and fields it does not know."
)


def schema(*, strict: bool = False) -> dict[str, Any]:
    """The JSON Schema of one line: as it is published, which takes what later releases add; or with *strict* as this
    release writes it, without any other event or field."""
    scalar = {"type": ["string", "number", "boolean", "null"]}
    head: dict[str, Any] = {
        "ts": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"},
        "seq": {"type": "integer", "minimum": 1},
        "level": {"enum": list(LEVELS)},
        "node": {"type": "string"},
        "ms": {"type": "number", "minimum": 0},
    }
    kinds = []
    for name, (doc, own) in sorted(EVENTS.items()):
        properties = {"event": {"const": name}, **head}
        properties |= {field: {"type": "string"} for field in COMMON if field != "ms"}
        properties |= {field: scalar for field in own}
        kind = {"description": doc, "type": "object", "properties": properties, "required": list(_ALWAYS)}
        kinds.append(kind | ({"additionalProperties": False} if strict else {}))
    if not strict:
        later = {"event": {"type": "string", "not": {"enum": sorted(EVENTS)}}, **head}
        kinds.append(
            {
                "description": "An event of a later release.",
                "type": "object",
                "properties": later,
                "required": list(_ALWAYS),
            }
        )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:pbsdock:events:{SCHEMA_VERSION}",
        "$comment": _RULE,
        "title": f"One line of the pbsdock event stream, version {SCHEMA_VERSION}",
        "oneOf": kinds,
    }


def documented() -> str:
    """The register as a Markdown table, for docs/events.md."""
    lines = ["| event | meaning | fields |", "|---|---|---|"]
    for name, (doc, own) in sorted(EVENTS.items()):
        lines.append(f"| `{name}` | {doc} | {', '.join(f'`{field}`' for field in own)} |")
    return "\n".join(lines) + "\n"
