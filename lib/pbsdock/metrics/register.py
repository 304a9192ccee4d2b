"""The register of metrics, from which they are made and the manual page is checked. Pure.

Names are Prometheus' (prometheus.io/docs/practices/naming): base units, and ``_total`` behind
a counter, which its sample has and its entry here has not. No label has a value that users choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "pbsdock_"
# Seconds. A factor of three is enough to see what has become slow, and 500 nodes have each bucket of each phase.
_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_PHASES = ("prepare", "cgroup", "pull-queue", "pull", "credentials", "start", "stage-in", "stage-out", "release")
_OUTCOMES = ("ran", "refused", "not-started")  # of job.finished
_KINDS = ("container", "cgroup", "record", "files", "marker", "pins", "credentials")  # of orphan.reaped
_RUNS = (10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 604800.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; *buckets* are upper bounds of a histogram's.

    *known* are values of its one label that exist from the start, at 0: what Prometheus first sees at 3 has, for it,
    not increased.
    """

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    known: tuple[str, ...] = ()


def _counter(help_text: str, *labels: str, known: tuple[str, ...] = ()) -> Metric:
    return Metric("counter", help_text, labels, known=known)


def _gauge(help_text: str, *labels: str) -> Metric:
    return Metric("gauge", help_text, labels)


# By name without PREFIX. Counted from events, since the agent was started.
COUNTED: dict[str, Metric] = {
    "jobs_planned": _counter("Jobs that policy has said yes to."),
    "jobs_started": _counter("Jobs whose container has begun to run."),
    "jobs_finished": _counter("Jobs that are over; outcome: ran, refused or not-started.", "outcome", known=_OUTCOMES),
    "jobs_refused": _counter("Jobs refused for what their users asked for, by the code of the refusal.", "code"),
    "job_faults": _counter("Failures of this node's while it served jobs, by code.", "code"),
    "jobs_out_of_memory": _counter("Jobs of which the kernel has killed a process for memory."),
    "job_cpu_seconds": _counter("Processor time of jobs that are over."),
    "job_run_seconds": Metric("histogram", "How long containers ran.", buckets=_RUNS),
    "children_started": _counter("Containers that jobs have started themselves."),
    "children_refused": _counter("Docker commands of jobs that were refused.", "code"),
    "tasks_started": _counter("TM tasks begun in jobs' containers."),
    "phase_duration_seconds": Metric(
        "histogram",
        "How long the parts of a job took: prepare (the whole prologue), cgroup, pull-queue (before a pull), pull,"
        " credentials (of one store), start, stage-in, stage-out, release.",
        ("phase",),
        _BOUNDS,
        _PHASES,
    ),
    "image_cache_hits": _counter("Jobs whose image was on the node already."),
    "image_pulls": _counter("Pulls that are over; result: pulled or failed.", "result", known=("pulled", "failed")),
    "image_pull_failures": _counter("Pulls that have failed, by code.", "code"),
    "image_pull_retries": _counter("Tries of pulls that a registry has put off, by code.", "code"),
    "image_pulls_queued": _counter(
        "Times a pull had to wait; why: turn (images.max_pulls), rate (max_per_minute) or registry (its Retry-After).",
        "why",
        known=("turn", "rate", "registry"),
    ),
    "image_mirror_failures": _counter("Times a mirror did not give an image, by code.", "code"),
    "images_removed": _counter("Images removed again; why: high-water or prune.", "why", known=("high-water", "prune")),
    "images_removed_bytes": _counter("Their bytes on disk."),
    "image_pulled_bytes": _counter("Bytes on disk of the images that were pulled."),
    "orphans_reaped": _counter("What the reaper has removed, by kind.", "kind", known=_KINDS),
    "releases": _counter("Jobs whose teardown is complete and verified."),
    "release_failures": _counter("Teardowns that left something for the reaper."),
    "engine_losses": _counter("Times the container engine stopped answering."),
    "node_out_of_service": _counter("Times the node has gone out of service, by code.", "code"),
    "credentials_minted": _counter("Credentials of jobs made at an object store.", "store"),
    "credentials_refreshed": _counter("Sessions that took the place of one about to end.", "store"),
    "credentials_revoked": _counter("Credentials of jobs ended at an object store.", "store"),
    "store_failures": _counter("Requests that an object store did not do, by code.", "store", "code"),
    "staged_bytes": _counter(
        "Bytes copied between jobs and object stores; direction: in or out.", "direction", known=("in", "out")
    ),
    "staged_files": _counter(
        "Files copied between jobs and object stores; direction: in or out.", "direction", known=("in", "out")
    ),
    "staging_failures": _counter("Stagings that have failed, by code.", "direction", "code"),
    "client_refusals": _counter("Requests to the agent for what is not the client's own."),
    "agent_errors": _counter("Errors of the agent that nobody had foreseen."),
    "agent_hangs": _counter("Threads of the agent that hung."),
    "events": _counter(
        "Events, by level; also those that are limited or could not be written.",
        "level",
        known=("info", "warning", "error"),
    ),
    "events_limited": _counter("Events not written because a user caused too many."),
    "events_dropped": _counter("Events that could not be written, as on a full disk."),
}
# Read when they are asked for.
READ: dict[str, Metric] = {
    "jobs": _gauge("Jobs with a record on this node, by state.", "state"),
    "tasks": _gauge("TM tasks that run."),
    "engine_up": _gauge("Whether the container engine answered the last ping (1) or not (0)."),
    "engine_ping_seconds": _gauge("How long the engine took for the last ping that it answered."),
    "engine_circuit_open": _gauge("Whether calls to the engine fail at once (1), because it was found not to answer."),
    "engine_disk_size_bytes": _gauge("Size of the file system with the engine's images."),
    "engine_disk_avail_bytes": _gauge("Bytes free for images on that file system."),
    "images": _gauge("Images on the node, whoever pulled them."),
    "images_bytes": _gauge("Their sizes added up; layers that images share count for each."),
    "image_cache_images": _gauge("Images that pbsdock has pulled and that are here."),
    "image_cache_bytes": _gauge("Their sizes added up; layers that images share count for each."),
    "image_cache_pinned": _gauge("How many images the site has pinned, also those that are yet to come."),
    "image_pulls_running": _gauge("Pulls under way."),
    "image_pulls_waiting": _gauge("Pulls that wait: for their turn, a registry's rate, or what it has asked for."),
    "requests_running": _gauge("Requests to the agent being answered."),
    "requests_queued": _gauge("Requests that wait for another of their user's."),
    "connections": _gauge("Connections to the agent."),
    "credentials_live": _gauge("Jobs' credentials that are not revoked.", "store"),
    "reaper_passes": _counter("Passes of the reaper; result: done or blocked.", "result"),
    "reaper_last_pass_timestamp_seconds": _gauge("When a pass that was not blocked ended last; 0: none has."),
    "reaper_last_pass_seconds": _gauge("How long it took."),
    "orphans_left": _gauge("What that pass found and could not remove."),
    "node_in_service": _gauge("Whether the node check lets the scheduler use this node (1) or not (0)."),
    "node_drained": _gauge("Whether an admin keeps new container jobs away (1) or not (0)."),
    "agent_threads": _gauge("Threads of the agent."),
    "agent_info": _gauge("Always 1; the label has the agent's version.", "version"),
}
# Of prometheus_client's own collector (/proc/self), with our prefix.
PROCESS: dict[str, Metric] = {
    "agent_process_virtual_memory_bytes": _gauge("Address space of the agent."),
    "agent_process_resident_memory_bytes": _gauge("Memory of the agent."),
    "agent_process_start_time_seconds": _gauge("When the agent was started."),
    "agent_process_cpu_seconds": _counter("Processor time of the agent."),
    "agent_process_open_fds": _gauge("Descriptors the agent has open."),
    "agent_process_max_fds": _gauge("Descriptors it may have open."),
}
METRICS = {**COUNTED, **READ, **PROCESS}


def sample_names(name: str) -> tuple[str, ...]:
    """What the samples of a metric are called, which is what a query has to name."""
    full = PREFIX + name
    kind = METRICS[name].kind
    if kind == "counter":
        return (f"{full}_total",)
    return (f"{full}_bucket", f"{full}_sum", f"{full}_count") if kind == "histogram" else (full,)
