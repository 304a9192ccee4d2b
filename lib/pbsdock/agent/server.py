"""The agent's process: everything begun in its order, and what an agent before it left taken over."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

from pbsdock.agent import door, neighbours, vigil
from pbsdock.agent.children.release import adopt as adopt_children
from pbsdock.agent.finish import begin_stage_out
from pbsdock.agent.listener import Listener
from pbsdock.agent.memory import few_arenas, heap
from pbsdock.agent.monitoring import Monitoring
from pbsdock.agent.node import Node
from pbsdock.agent.reconcile import reconcile
from pbsdock.agent.release import release
from pbsdock.agent.reload import Hangups
from pbsdock.agent.requests import respond
from pbsdock.agent.runs import JobRun
from pbsdock.agent.service import Service
from pbsdock.agent.version import version
from pbsdock.agent.watch import Watcher
from pbsdock.config.tables import Config, ConfigError, load_with_lines
from pbsdock.config.trust import untrusted
from pbsdock.core.ledger import Ledger
from pbsdock.core.paths import Paths
from pbsdock.core.record import State
from pbsdock.events.stream import EventStream
from pbsdock.host.installed import offer_docker

if TYPE_CHECKING:
    from pbsdock.stores.secret import Secret

_PROMISES_S = 3.0  # an engine that hangs holds up no agent that is to end; the hooks wait longer


def adopt(node: Node) -> None:
    """After a restart: go on with what runs, finish what ended meanwhile, release what was half prepared."""
    records = node.jobs.records()
    adopted = 0
    for record in records:
        if record.boot_id != node.boot:
            continue
        if record.state in (State.RUNNING, State.STAGING):
            running = JobRun(record=record, pid=record.facts.pid, pid_start=record.facts.pid_start)
            node.jobs.add(running)
            adopted += 1
            node.stores.recall(record, node.store_dir(record))
            if record.state is State.STAGING:
                begin_stage_out(node, running)
        elif record.state in (State.PREPARING, State.RELEASING):
            with node.job_lock(record.job_id, 10.0):
                release(node, record, why="agent-restarted")
    adopt_children(node)
    if records:
        node.emit("agent.adopted", records=len(records), running=adopted)


def serve(paths: Paths, service: Service) -> int:
    """Run the agent until it is told to stop; returns its exit code."""
    hangups = Hangups()
    for problem in untrusted(paths):
        return _unusable(paths, "untrusted-files", f"pbsdock does not run from files others can change: {problem}")
    try:
        config, lines = load_with_lines(paths.config)
    except (ConfigError, OSError) as error:
        service.turn_away()
        return _unusable(paths, "bad-configuration", f"the configuration is not usable: {error}")
    few_arenas()
    events = EventStream.from_config(config.events, paths.log_dir, socket.gethostname())
    ledger = Ledger(paths.state_dir / "jobs")
    node = Node(paths, config, events, ledger, lines)
    for directory, mode in ((paths.run_dir, 0o755), (paths.markers, 0o711), (paths.work, 0o700), (paths.pins, 0o700)):
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        directory.chmod(mode)
    _note_stores(paths, config)
    monitoring = Monitoring(node)
    node.emit("agent.started", pid=os.getpid(), version=version())
    signal.signal(signal.SIGTERM, lambda *_: _stop(node, service, monitoring))
    adopt(node)
    Watcher(node).start()
    _offer_sessions(node)
    neighbours.listen(node)
    listener = Listener(node, respond)
    listening = listener.open(service)
    offer_docker(paths, config)
    entrance = door.listen(node)
    monitoring.start(listener.load)
    heap.started()
    threading.Thread(target=lambda: reconcile(node), daemon=True).start()
    hangups.follow(node)
    if (drained := node.drain.now()) is not None:
        node.emit("node.drained", reason=drained.reason, since=int(drained.since))
    vigil.keep(node, is_watched=bool(service.watchdog_s))
    service.ready(str(paths.socket), lambda: not node.pulse.stuck())
    listener.serve_for_ever(listening, entrance)
    return 0


def _offer_sessions(node: Node) -> None:
    """Open the endpoint for clients in containers, where there is anything to be had from it."""
    if not node.config.s3 or not node.config.agent.credentials_port:
        return
    from pbsdock.agent.endpoint import Endpoint

    def answer(incarnation: str, store: str) -> Secret | None:
        found = [
            record
            for record in node.jobs.records()
            if record.incarnation == incarnation and record.state is State.RUNNING
        ]
        return node.stores.session(found[0], store) if found else None

    try:
        Endpoint(node.config.agent.credentials_port, node.stores.sessions, answer).start()
    except OSError as error:
        reason = f"no sessions on port {node.config.agent.credentials_port} of 127.0.0.1: {error.strerror}"
        node.emit("agent.error", level="warning", where="credentials-port", reason=reason)


def _note_stores(paths: Paths, config: Config) -> None:
    """Leave word for the node check whether this node has object stores, and so always needs an agent."""
    file = paths.state_dir / "stores"
    if config.s3:
        file.write_text("".join(f"{name}\n" for name in config.s3))
    else:
        file.unlink(missing_ok=True)


def _stop(node: Node, service: Service, monitoring: Monitoring) -> None:
    service.stopping()
    node.promises.kept(_PROMISES_S)  # else the jobs wait for the next agent's reaper
    monitoring.stop()
    node.events.tell_limited(now=True)
    node.emit("agent.stopped", pid=os.getpid())
    os._exit(0)


def _unusable(paths: Paths, code: str, text: str) -> int:
    sentence = " ".join(text.split())
    try:
        paths.unhealthy.write_text(f"{sentence}\n{code}\n")
        paths.unhealthy.chmod(0o644)
    except OSError:
        pass
    return 1
