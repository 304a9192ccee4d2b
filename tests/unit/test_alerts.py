"""The rules for Prometheus and the dashboard: each alert fires for what it is for, and all name metrics that exist.

promtool runs the rules on series that are written down here, as ``promtool test rules`` does (prometheus.io/docs).
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pbsdock.metrics.register import METRICS, PREFIX, sample_names
from tests.conftest import ROOT

RULES = sorted((ROOT / "etc/prometheus").glob("*.yml"))
DASHBOARD = ROOT / "etc/grafana/pbsdock.json"
Series = dict[str, str]  # series -> values in the notation of promtool, one a minute

# All is well: no alert. A rate of refusals and failures that every site has.
WELL: Series = {
    'pbsdock_node_in_service{instance="n1"}': "1x60",
    'pbsdock_node_drained{instance="n1"}': "0x60",
    'pbsdock_node_in_service{instance="n2"}': "0x60",
    'pbsdock_node_drained{instance="n2"}': "1x60",
    'pbsdock_engine_up{instance="n1"}': "1x60",
    'pbsdock_engine_ping_seconds{instance="n1"}': "0.002x60",
    'pbsdock_engine_disk_avail_bytes{instance="n1"}': "50x60",
    'pbsdock_engine_disk_size_bytes{instance="n1"}': "100x60",
    'pbsdock_job_faults_total{instance="n1",code="pull-failed"}': "0x30 1x30",
    'node_textfile_mtime_seconds{instance="n1",file="/var/lib/prometheus/node-exporter/pbsdock.prom"}': "0+60x60",
    'node_textfile_mtime_seconds{instance="n1",file="/var/lib/prometheus/node-exporter/apt.prom"}': "0x60",
    'pbsdock_agent_process_start_time_seconds{instance="n1"}': "1x20 2x40",
    'pbsdock_agent_process_resident_memory_bytes{instance="n1"}': "36000000x60",
    'pbsdock_agent_errors_total{instance="n1"}': "0x30 1x30",
    'pbsdock_requests_queued{instance="n1"}': "20x60",
    'pbsdock_events_dropped_total{instance="n1"}': "7x60",
    'pbsdock_reaper_passes_total{instance="n1",result="done"}': "0+1x60",
    'pbsdock_reaper_passes_total{instance="n1",result="blocked"}': "0x30 1x30",
    'pbsdock_orphans_left{instance="n1"}': "0x20 3x20 0x20",
    'pbsdock_release_failures_total{instance="n1"}': "0x30 1x30",
    'pbsdock_jobs_refused_total{instance="n1",code="image-not-found"}': "0+3x60",
    'pbsdock_jobs_started_total{instance="n1"}': "0+30x60",
    'pbsdock_image_pulls_total{instance="n1",result="failed"}': "0+1x60",
    'pbsdock_image_pulls_total{instance="n1",result="pulled"}': "0+9x60",
    'pbsdock_store_failures_total{instance="n1",store="ceph",code="store-clock"}': "0x30 1x30",
}
# alert -> what of the above is otherwise when it fires
ILL: dict[str, Series] = {
    "PbsdockNodeOutOfService": {'pbsdock_node_in_service{instance="n1"}': "0x60"},
    "PbsdockEngineDown": {'pbsdock_engine_up{instance="n1"}': "1x50 0x10"},
    "PbsdockEngineSlow": {'pbsdock_engine_ping_seconds{instance="n1"}': "2.5x60"},
    "PbsdockEngineDiskFull": {'pbsdock_engine_disk_avail_bytes{instance="n1"}': "9x60"},
    "PbsdockFaults": {'pbsdock_job_faults_total{instance="n1",code="pull-failed"}': "0+1x60"},
    "PbsdockMetricsStale": {
        'node_textfile_mtime_seconds{instance="n1",file="/var/lib/prometheus/node-exporter/pbsdock.prom"}': "0+60x50 3000x10"
    },
    "PbsdockAgentRestarts": {'pbsdock_agent_process_start_time_seconds{instance="n1"}': "0+1x60"},
    "PbsdockAgentMemory": {'pbsdock_agent_process_resident_memory_bytes{instance="n1"}': "300000000x60"},
    "PbsdockAgentErrors": {'pbsdock_agent_errors_total{instance="n1"}': "0+1x60"},
    "PbsdockRequestsQueue": {'pbsdock_requests_queued{instance="n1"}': "200x60"},
    "PbsdockEventsDropped": {'pbsdock_events_dropped_total{instance="n1"}': "7x55 8x5"},
    "PbsdockReaperBlocked": {
        'pbsdock_reaper_passes_total{instance="n1",result="done"}': "9x60",
        'pbsdock_reaper_passes_total{instance="n1",result="blocked"}': "0+1x60",
    },
    "PbsdockOrphansStay": {'pbsdock_orphans_left{instance="n1"}': "0x20 3x40"},
    "PbsdockReleasesFail": {'pbsdock_release_failures_total{instance="n1"}': "0+1x60"},
    "PbsdockManyRefusals": {'pbsdock_jobs_started_total{instance="n1"}': "0+1x60"},
    "PbsdockPullsFail": {'pbsdock_image_pulls_total{instance="n1",result="pulled"}': "7x60"},
    "PbsdockStoreFails": {'pbsdock_store_failures_total{instance="n1",store="ceph",code="store-clock"}': "0+1x60"},
}


def _group(name: str, fires: list[str], series: Series) -> dict[str, Any]:
    samples = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in fires]
    expected = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "58m",
        "exp_samples": samples,
    }
    given = [{"series": key, "values": values} for key, values in series.items()]
    return {"name": name, "interval": "1m", "input_series": given, "promql_expr_test": [expected]}


def test_each_alert_fires_for_what_it_is_for(tmp_path: Path) -> None:
    """That one alone; and none while all is well. Of what promtool says a failure's names are shown."""
    groups = [_group("well", [], WELL)] + [_group(alert, [alert], WELL | ILL[alert]) for alert in ILL]
    tests = {"rule_files": [str(path) for path in RULES], "evaluation_interval": "1m", "tests": groups}
    (tmp_path / "tests.yml").write_text(json.dumps(tests))  # JSON is YAML
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "tests.yml"], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried() -> None:
    """And is explained in the manual."""
    alerts = re.findall(r"- alert: (\w+)", "".join(path.read_text() for path in RULES))
    manual = (ROOT / "docs/monitoring.md").read_text()

    assert sorted(alerts) == sorted(ILL)
    assert [alert for alert in alerts if f"| `{alert}` |" not in manual] == []


# -- what exists ------------------------------------------------------------------------------------------------------

_RECORDED = re.findall(r"- record: (\S+)", "".join(path.read_text() for path in RULES))
_SAMPLES = {sample for name in METRICS for sample in sample_names(name)}


def _panels() -> list[dict[str, Any]]:
    found = json.loads(DASHBOARD.read_text())["panels"]
    assert isinstance(found, list)
    return found


def _queries() -> list[str]:
    return [target["expr"] for panel in _panels() for target in panel.get("targets", [])]


@pytest.mark.parametrize("path", [*RULES, DASHBOARD], ids=lambda path: path.name)
def test_names_that_are_used_exist(path: Path) -> None:
    """A metric that is renamed would leave an alert that never fires, and an empty panel."""
    text = "\n".join(_queries()) if path == DASHBOARD else path.read_text()
    used = set(re.findall(rf"(?<![:\w-]){PREFIX}\w+(?![\w:-])", text))
    recorded = set(re.findall(r"\b(?:site|instance):\w+(?::\w+)+", text))

    assert used or recorded
    assert used - _SAMPLES == set()
    assert recorded - set(_RECORDED) == set()


def test_the_dashboards_queries_are_promql(tmp_path: Path) -> None:
    """promtool parses each, with what Grafana fills in."""
    rules = []
    for number, query in enumerate(_queries()):
        filled = query.replace("$__rate_interval", "5m").replace("$node", ".*")
        assert "$" not in filled
        rules.append({"record": f"panel:query{number}:x", "expr": filled})
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    """What its dashboard model (grafana.com/docs, "JSON model") demands: ids, types, places in 24 columns, a source."""
    board = json.loads(DASHBOARD.read_text())
    assert board["id"] is None  # Grafana gives one on import
    assert {name: type(board[name]) for name in ("uid", "title", "schemaVersion", "panels", "time", "templating")} == {
        "uid": str,
        "title": str,
        "schemaVersion": int,
        "panels": list,
        "time": dict,
        "templating": dict,
    }
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "node"}
    ids = [panel["id"] for panel in _panels()]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in _panels():
        assert panel["type"] in ("row", "stat", "timeseries", "table", "heatmap"), panel["title"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert panel["description"]
        assert [set(target) >= {"expr", "refId", "legendFormat"} for target in panel["targets"]].count(False) == 0
