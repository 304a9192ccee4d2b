"""``pbsdock doctor services``: what the agent offers on ports and in files beside its own socket, as configured."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

from pbsdock.admin.doctor.subject import Subject
from pbsdock.admin.doctor.table import Row, ok, warn
from pbsdock.agent.monitoring import directory_for
from pbsdock.config.tables import MetricsConfig
from pbsdock.core.paths import Paths

_ANSWER_S = 1.0
_LATE = 4  # turns of the writer; it may just have been started
_EVENT = "the agent has to run; its event agent.error says what is in its way"


def examine(subject: Subject) -> Iterator[Row]:
    """Those that the site has turned on."""
    config, paths = subject.config, subject.paths
    yield from metrics_file(config.metrics, paths)
    if config.metrics.listen:
        yield listened("metrics endpoint", config.metrics.listen)
    if config.s3 and config.agent.credentials_port:
        yield listened("sessions port", f"127.0.0.1:{config.agent.credentials_port}")


def metrics_file(config: MetricsConfig, paths: Paths) -> Iterator[Row]:
    """Whether what node_exporter reads is of this minute."""
    directory = directory_for(config.directory, paths)
    if not directory:
        return
    if not Path(directory).is_dir():
        is_asked_for = config.directory != "auto"
        said = f"{directory} does not exist, so no metrics are written"
        if is_asked_for:
            yield warn("services", "metrics file", said, "install node_exporter, or correct metrics.directory")
        else:
            yield ok("services", "metrics file", said)
        return
    file = Path(directory) / f"{paths.instance}.prom"
    try:
        age = time.time() - file.stat().st_mtime
    except OSError as error:
        yield warn("services", "metrics file", f"{file}: {error.strerror}", _EVENT)
        return
    if age > _LATE * config.interval_s:
        yield warn("services", "metrics file", f"{file} was written {age:.0f} s ago", _EVENT)
    else:
        yield ok("services", "metrics file", f"{file} is written every {config.interval_s:g} s")


def listened(step: str, where: str) -> Row:
    """Whether anybody listens at an address, or a unix socket's path."""
    try:
        if where.startswith("/"):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(_ANSWER_S)
                client.connect(where)
        else:
            host, _, port = where.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        return warn("services", step, f"nobody listens at {where}: {error.strerror or error}", _EVENT)
    return ok("services", step, f"{where} is listened at")
