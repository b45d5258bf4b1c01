"""The alert rules in Prometheus's own tool: an alert is raised when it should be and not else."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import yaml

from grafana import ALERTS

PROXY = 'instance="a", job="mooring-proxy", model="wine"'
MONITOR = 'instance="b", job="mooring-monitor", model="wine", variant="champion"'


@pytest.mark.parametrize(
    ("alert", "minutes", "series", "raised"),
    [
        pytest.param(
            "MooringExchangesDropped",
            35,
            {
                f"mooring_exchanges_seen_total{{{PROXY}}}": "0+10x60",
                f'mooring_exchanges_dropped_total{{{PROXY}, reason="disk_full"}}': "_x29 3x30",
            },
            [{"reason": "disk_full"}],
            id="the first exchange that is lost",
        ),
        pytest.param(
            "MooringExchangesDropped",
            35,
            {
                f"mooring_exchanges_seen_total{{{PROXY}}}": "_x29 100x30",
                f'mooring_exchanges_dropped_total{{{PROXY}, reason="disk_full"}}': "_x29 3x30",
            },
            [],
            id="what was lost before Prometheus looked",
        ),
        pytest.param(
            "MooringLedgerDoesNotAddUp",
            30,
            {
                f"mooring_exchanges_seen_total{{{PROXY}}}": "10x60",
                f"mooring_exchanges_stored_total{{{PROXY}}}": "9x60",
                f"mooring_exchanges_in_flight{{{PROXY}}}": "0x60",
                f"mooring_exchanges_sampled_out_total{{{PROXY}}}": "0x60",
            },
            [{}],
            id="one exchange too few, and none dropped",
        ),
        pytest.param(
            "MooringLedgerDoesNotAddUp",
            30,
            {
                f"mooring_exchanges_seen_total{{{PROXY}}}": "10x60",
                f"mooring_exchanges_stored_total{{{PROXY}}}": "5x60",
                f"mooring_exchanges_in_flight{{{PROXY}}}": "1x60",
                f"mooring_exchanges_sampled_out_total{{{PROXY}}}": "1x60",
                f'mooring_exchanges_dropped_total{{{PROXY}, reason="killed"}}': "1x60",
                f'mooring_exchanges_dropped_total{{{PROXY}, reason="disk_full"}}': "2x60",
            },
            [],
            id="every exchange accounted for",
        ),
        pytest.param(
            "MooringNoModelServer",
            10,
            {
                f'mooring_servers{{{PROXY}, version="3", state="ready"}}': "0x60",
                f'mooring_servers{{{PROXY}, version="4", state="ready"}}': "0x60",
                f'mooring_route_share{{{PROXY}, version="3", variant="champion"}}': "1x60",
            },
            [{"version": "3", "state": "ready"}],
            id="the champion alone",
        ),
        pytest.param(
            "MooringModelServersMissing",
            20,
            {
                f'mooring_servers{{{PROXY}, version="3", state="ready"}}': "1x60",
                f'mooring_servers{{{PROXY}, version="3", state="wanted"}}': "2x60",
            },
            [{"version": "3"}],
            id="one server of two",
        ),
        pytest.param(
            "MooringRolloutTakenBack",
            40,
            {
                f'mooring_route_share{{{PROXY}, version="3", variant="champion"}}': "1x60",
                f'mooring_route_share{{{PROXY}, version="4", variant="shadow"}}': "1x20 stale",
                f'mooring_route_share{{{PROXY}, version="4", variant="canary"}}': "_x10 0.1x15 stale",
            },
            [{"version": "4"}],
            id="a canary that is gone",
        ),
        pytest.param(
            "MooringRolloutTakenBack",
            40,
            {
                f'mooring_route_share{{{PROXY}, version="3", variant="champion"}}': "1x25 stale",
                f'mooring_route_share{{{PROXY}, version="4", variant="canary"}}': "_x10 0.1x15 stale",
                f'mooring_route_share{{{PROXY}, version="4", variant="champion"}}': "_x26 1x30",
            },
            [],
            id="a canary that became the champion",
        ),
        pytest.param(
            "MooringDrift",
            10,
            {
                f'mooring_verdict{{{MONITOR}, version="3"}}': "2x60",
                f'mooring_window_end_seconds{{{MONITOR}, version="3"}}': "100x60",
                f'mooring_verdict{{{MONITOR}, version="4"}}': "0x60",
                f'mooring_window_end_seconds{{{MONITOR}, version="4"}}': "200x60",
            },
            [],
            id="a version that was replaced",
        ),
        pytest.param(
            "MooringDrift",
            10,
            {
                f'mooring_verdict{{{MONITOR}, version="3"}}': "0x60",
                f'mooring_window_end_seconds{{{MONITOR}, version="3"}}': "100x60",
                f'mooring_verdict{{{MONITOR}, version="4"}}': "2x60",
                f'mooring_window_end_seconds{{{MONITOR}, version="4"}}': "200x60",
            },
            [{"version": "4", "variant": "champion"}],
            id="the champion",
        ),
        pytest.param(
            "MooringMonitorBehind",
            60,
            {
                'mooring_monitor_lag_seconds{instance="b", job="mooring-monitor", model="wine"}': "0+60x60",
                f"mooring_exchanges_stored_total{{{PROXY}}}": "0+10x60",
            },
            [{}],
            id="traffic that is not read",
        ),
        pytest.param(
            "MooringMonitorBehind",
            60,
            {
                'mooring_monitor_lag_seconds{instance="b", job="mooring-monitor", model="wine"}': "0+60x60",
                f"mooring_exchanges_stored_total{{{PROXY}}}": "10x60",
            },
            [],
            id="no traffic",
        ),
    ],
)
def test_an_alert_is_raised_when_it_should_be_and_not_else(tmp_path, alert, minutes, series, raised):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NOT TESTED: when alerts are raised. It takes promtool, of Prometheus")
    answer = subprocess.run([promtool, "check", "rules", ALERTS], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    # Which labels and texts it has is tested above; here only whether, and for which series.
    firing = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    asked = {
        "expr": f"count by (alertname, reason, state, variant, version) ({firing})",
        "eval_time": f"{minutes}m",
        "exp_samples": [{"labels": labelled(alert, of_one), "value": 1} for of_one in raised],
    }
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [asked],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(test))
    answer = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def labelled(alert: str, labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in {"alertname": alert, **labels}.items()) + "}"
