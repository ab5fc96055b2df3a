"""Scrape configuration, rules, alerts and dashboard, with Debian's Prometheus."""

import json
import re
import shutil
import subprocess

import pytest
from prometheus_client.registry import REGISTRY

import api.metrics  # noqa: F401 - registers the metrics
from bench import dashboard

PROMETHEUS = dashboard.DEPLOY / "prometheus"
needs_prometheus = pytest.mark.skipif(not shutil.which("promtool"), reason="needs Debian's package prometheus")


@needs_prometheus
@pytest.mark.parametrize("check", ["check config prometheus.yml", "check rules rules.yml", "test rules rules_test.yml"])
def test_promtool_accepts_the_configuration_and_its_tests_of_the_alerts_pass(check):
    done = subprocess.run(
        ["promtool", *check.split()], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_rules_and_dashboard_name_only_metrics_that_the_service_has():
    known = {name for metric in REGISTRY.collect() for name in _names(metric)}
    text = (PROMETHEUS / "rules.yml").read_text() + dashboard.DASHBOARD.read_text()
    used = set(re.findall(r"\bmoodreel_\w+(?=[{[])", text.replace("{{", "")))
    assert len(used) > 15
    assert used - known == set()


def test_every_alert_has_a_test_and_every_recorded_series_a_reader():
    rules, tests = (PROMETHEUS / "rules.yml").read_text(), (PROMETHEUS / "rules_test.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert len(alerts) >= 8
    assert [alert for alert in alerts if f"alertname: {alert}\n" not in tests] == []
    readers = json.dumps(json.loads(dashboard.DASHBOARD.read_text())) + re.sub(r"record: .*", "", rules)
    assert [name for name in re.findall(r"record: (\S+)", rules) if name not in readers] == []


@needs_prometheus
@pytest.mark.server
def test_prometheus_scrapes_the_service_under_load_and_every_panel_has_data(tmp_path):
    panels = dashboard.measure(12, tmp_path)
    assert len(panels) == len(dashboard.read_panels())
    dashboard.draw(panels, tmp_path / "dashboard.png")
    assert (tmp_path / "dashboard.png").stat().st_size > 50_000


def _names(metric):
    if metric.type == "counter":
        return [f"{metric.name}_total"]
    return [metric.name, *(f"{metric.name}_{part}" for part in ("bucket", "sum", "count"))]
