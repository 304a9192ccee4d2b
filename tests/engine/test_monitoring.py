"""A real Prometheus and a real node_exporter read a real agent, and an alert fires and ends."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import IMAGE, ROOT, Instance, wait_until
from tests.support.ports import free_port

pytestmark = pytest.mark.engine
_RULES = sorted((ROOT / "etc/prometheus").glob("*.yml"))


class Monitored:
    """An instance whose agent talks to the engine through a link, which can be taken away; and who watches it."""

    def __init__(self, instance: Instance, work: Path) -> None:
        self.instance = instance
        self.work = work
        self.textfiles = work / "textfiles"
        self.socket = work / "docker.sock"
        self.agent_port, self.node_port, self.port = free_port(), free_port(), free_port()

    def configure(self) -> None:
        """The endpoint and the file, anew each second."""
        self.textfiles.mkdir()
        self.connect_engine()
        self.instance.configure(
            f"[engine]\nsocket = '{self.socket}'\n[network]\nallow = ['host']\n"
            f"[metrics]\ndirectory = '{self.textfiles}'\ninterval_s = 1\nlisten = '127.0.0.1:{self.agent_port}'\n"
        )

    def connect_engine(self) -> None:
        self.socket.symlink_to("/var/run/docker.sock")

    def watch(self, stack: ExitStack) -> None:
        """Start both, with the site's own rules, but for how long a state must last."""
        for file in _RULES:
            (self.work / file.name).write_text(re.sub(r"for: \w+", "for: 0s", file.read_text()))
        targets = [f"127.0.0.1:{self.agent_port}", f"127.0.0.1:{self.node_port}"]
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [file.name for file in _RULES],
            "scrape_configs": [{"job_name": "pbsdock", "static_configs": [{"targets": targets}]}],
        }
        (self.work / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        _start(
            stack,
            self.work / "node_exporter.log",
            "prometheus-node-exporter",
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={self.textfiles}",
            f"--web.listen-address=127.0.0.1:{self.node_port}",
        )
        _start(
            stack,
            self.work / "prometheus.log",
            "prometheus",
            f"--config.file={self.work}/prometheus.yml",
            f"--storage.tsdb.path={self.work}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers; nothing while it does not yet."""
        asked = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{asked}", timeout=10) as answer:
                return list(json.load(answer)["data"]["result"])
        except OSError:
            return []

    def value(self, expression: str) -> float | None:
        """Of the one series there is."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def firing(self) -> set[str]:
        return {found["metric"]["alertname"] for found in self.query('ALERTS{alertstate="firing"}')}


def _start(stack: ExitStack, log: Path, *command: str) -> None:
    process = subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT)
    stack.callback(process.wait)
    stack.callback(process.kill)


@pytest.fixture
def monitored(instance: Instance, scratch: Path) -> Iterator[Monitored]:
    work = scratch / "monitored"
    work.mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        found = Monitored(instance, work)
        found.configure()
        found.watch(stack)
        yield found


def test_prometheus_sees_jobs_and_an_engine_that_is_lost(monitored: Monitored) -> None:
    """Jobs, refusals and phases over both ways; the engine's alert, alone, while its socket is away, and not after. A stopped
    agent leaves no file."""
    instance = monitored.instance
    assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n").exit_status == 0
    assert instance.run(f"#!/bin/sh\n#DOCKER --network none {IMAGE}\ntrue\n").exit_status == 125
    agent = f'instance="127.0.0.1:{monitored.agent_port}"'
    wait_until("the jobs are counted", lambda: monitored.value(f"sum(pbsdock_jobs_finished_total{{{agent}}})") == 2)

    assert monitored.value(f'pbsdock_jobs_refused_total{{{agent},code="network-not-allowed"}}') == 1
    assert monitored.value(f"pbsdock_image_cache_hits_total{{{agent}}}") == 1
    for phase in ("prepare", "cgroup", "start", "release"):
        count = monitored.value(f'pbsdock_phase_duration_seconds_count{{{agent},phase="{phase}"}}')
        assert (count or 0) >= 1, phase
    file = f'instance="127.0.0.1:{monitored.node_port}"'
    wait_until("so are they in the file", lambda: monitored.value(f"sum(pbsdock_jobs_finished_total{{{file}}})") == 2)
    assert monitored.value("node_textfile_scrape_error") == 0
    assert monitored.value(f"pbsdock_agent_info{{{agent}}}") == 1
    assert monitored.firing() == set()

    monitored.socket.unlink()
    try:
        wait_until("the alert fires", lambda: monitored.firing() == {"PbsdockEngineDown"}, 20)
        wait_until("calls fail at once", lambda: monitored.value(f"pbsdock_engine_circuit_open{{{agent}}}") == 1)
        assert monitored.value(f"pbsdock_node_in_service{{{agent}}}") == 1  # no job has met it
    finally:
        monitored.connect_engine()
    wait_until("the alert ends", lambda: monitored.firing() == set(), 20)
    assert monitored.value(f"pbsdock_engine_losses_total{{{agent}}}") == 1

    # What node_exporter went on reading would be taken for the present.
    subprocess.run(["kill", "-TERM", *map(str, instance.agent_pids())], check=True)
    wait_until("the agent has stopped", lambda: not instance.agent_pids())
    assert list(monitored.textfiles.iterdir()) == []
