"""The dashboard and the alert rules ask for metrics, labels and commands that exist, and can get an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import click
import promql_parser as promql
import pytest
import yaml
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from grafana import ALERTS, ROOT, rules
from mooring.capture.admin.metrics import metrics
from mooring.capture.proxy.stats import Stats
from mooring.cli import main
from mooring.exchange import Ledger
from mooring.serving.front import metrics as server_metrics
from mooring.serving.messages import Route, Server
from told_metrics import told_metrics

DASHBOARD = (ROOT / "deploy" / "grafana-dashboard.json").read_text()
OPERATE = (ROOT / "docs" / "operate.md").read_text()
DOCUMENTED = OPERATE + (ROOT / "docs" / "monitor.md").read_text()
SCRAPES = yaml.safe_load(re.search(r"```yaml\n(scrape_configs:.*?)```", OPERATE, re.DOTALL)[1])["scrape_configs"]
# Okabe and Ito's colours, which the colour-blind tell apart, and a grey.
COLOURS = {"#0072B2", "#E69F00", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "#8C8C8C"}
OF_COUNTERS = {"rate", "irate", "increase"}
OF_GAUGES = {"delta", "idelta", "deriv", "predict_linear"}
PICKING = {"topk", "bottomk"}  # their results keep their labels


class Exposed(NamedTuple):
    """A metric as Prometheus has it: whether it only grows, and its labels, those of its target too."""

    grows: bool
    labels: frozenset[str]


class Collector:
    """Yields metrics that are there already, as a registry wants it."""

    def __init__(self, families: Iterator[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def scraped(families: Iterator[Metric], of_target: set[str]) -> dict[str, Exposed]:
    registry = CollectorRegistry()
    registry.register(Collector(families))
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        assert family.samples, f"{family.name} has no series here, so its labels are unknown"
        for sample in family.samples:
            grows = family.type in ("counter", "histogram")
            found[sample.name] = Exposed(grows, frozenset({*sample.labels, *of_target, "job", "instance"}))
    return found


def of_job(prefix: str) -> set[str]:
    """Return the labels that the scrape configuration in docs/operate.md adds to each target of a job."""
    [targets] = [job["static_configs"] for job in SCRAPES if job["job_name"].startswith(prefix)]
    return set.intersection(*(set(each.get("labels", {})) for each in targets))


def exposed() -> dict[str, Exposed]:
    ledger = Ledger(seen=1, dropped={"disk_full": 1}, errors={"truncated": 1}, shadow={"copied": 1})
    stats = Stats(statuses={200: 1}, answers={"champion 200 3": 1})
    served = server_metrics({"3": Server(1, 1)}, [Route("3", "champion")])
    proxy = of_job("mooring-proxy")
    return {
        **scraped(metrics(stats, ledger, 1, 1), proxy),
        **scraped(served, proxy),
        **scraped(told_metrics().collect(), of_job("mooring-monitor")),
        "up": Exposed(grows=False, labels=frozenset({"job", "instance"})),  # Prometheus' own, of every target
    }


EXPOSED = exposed()


class Query:
    """A PromQL expression: what is wrong with it, the metrics it names and the labels that its answer has."""

    def __init__(self, text: str) -> None:
        self.faults: list[str] = []
        self.names: set[str] = set()
        text = text.replace("$__rate_interval", "5m")
        try:
            self.labels = self._labels(promql.parse(text)) or frozenset()
        except ValueError as error:
            self.faults.append(f"{text}: {error}")
            self.labels = frozenset()

    def _need(self, labels: list[str], there: frozenset[str], where: str) -> None:
        if missing := set(labels) - there:
            self.faults.append(f"{where}: there is no label {', '.join(sorted(missing))}")

    def _labels(self, node: promql.Expr) -> frozenset[str] | None:
        """Return the labels that it has; None for a number."""
        match node:
            case promql.VectorSelector():
                return self._selected(node)
            case promql.MatrixSelector():
                return self._selected(node.vector_selector)
            case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
                return self._labels(node.expr)
            case promql.NumberLiteral() | promql.StringLiteral():
                return None
            case promql.Call():
                return self._called(node)
            case promql.AggregateExpr():
                return self._aggregated(node)
            case promql.BinaryExpr():
                return self._combined(node)
        raise AssertionError(f"what is {type(node).__name__}?")

    def _selected(self, node: promql.VectorSelector) -> frozenset[str]:
        assert not node.matchers.or_matchers
        names = [node.name] if node.name else []
        labels = []
        for matcher in node.matchers.matchers:
            if matcher.name == "__name__":
                names += matcher.value.split("|")
            else:
                labels.append(matcher.name)
        assert names, f"{node} names no metric"
        self.names.update(names)
        for name in names:
            if name not in EXPOSED:
                self.faults.append(f"there is no metric {name}")
                return frozenset(labels)
            self._need(labels, EXPOSED[name].labels, name)
        return frozenset.intersection(*(EXPOSED[name].labels for name in names))

    def _called(self, node: promql.Call) -> frozenset[str] | None:
        function = node.func.name
        if function in OF_COUNTERS | OF_GAUGES:
            asked = node.args[0]
            if not isinstance(asked, promql.MatrixSelector):
                self.faults.append(f"{function}() of something else than a metric")
            elif (known := EXPOSED.get(asked.vector_selector.name)) and known.grows != (function in OF_COUNTERS):
                self.faults.append(f"{function}() is not for {asked.vector_selector.name}")
        inner = [labels for argument in node.args if (labels := self._labels(argument)) is not None]
        if not inner:
            return None
        if function == "histogram_quantile":
            self._need(["le"], inner[0], function)
            return inner[0] - {"le"}
        return inner[0]

    def _aggregated(self, node: promql.AggregateExpr) -> frozenset[str]:
        inner = self._labels(node.expr)
        assert inner is not None
        if str(node.op) in PICKING:
            return inner
        if node.modifier is None:
            return frozenset()
        self._need(node.modifier.labels, inner, str(node.modifier))
        by = frozenset(node.modifier.labels)
        return by if node.modifier.type == promql.AggModifierType.By else inner - by

    def _combined(self, node: promql.BinaryExpr) -> frozenset[str] | None:
        left, right = self._labels(node.lhs), self._labels(node.rhs)
        if left is None or right is None:
            return right if left is None else left
        matching = node.modifier.matching if node.modifier is not None else None
        kept_left, kept_right = left, right
        if matching is not None:
            named = frozenset(matching.labels)
            if matching.type == promql.LabelModifierType.Include:
                self._need(matching.labels, left & right, str(matching))
                kept_left = kept_right = named
            else:
                self._need(matching.labels, left | right, str(matching))
                kept_left, kept_right = left - named, right - named
        if kept_left != kept_right:
            differ = ", ".join(sorted(kept_left ^ kept_right))
            self.faults.append(f"the sides of {node.op} never match, because of {differ}")
        if str(node.op) in ("and", "unless", "or"):
            return left
        many = node.modifier is not None and node.modifier.card == promql.VectorMatchCardinality.ManyToOne
        return left if many else kept_left


def wrong_in_dashboard(text: str) -> list[str]:
    """Return what is wrong with a dashboard's queries, legends and variables."""
    dashboard = json.loads(text)
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    found = [f"there is no variable {name}" for name in used_variables(text) - variables.keys()]
    for one in variables.values():
        if one["type"] == "query":
            # As Grafana takes it apart.
            selector, label = re.fullmatch(r"label_values\((.+),\s*(\w+)\)", one["query"]["query"]).groups()
            query = Query(selector)
            found += query.faults
            if label not in query.labels:
                found.append(f"variable {one['name']}: there is no label {label}")
    for panel in panels(dashboard):
        for target in panel["targets"]:
            query = Query(target["expr"])
            found += [f"{panel['title']}: {fault}" for fault in query.faults]
            for label in set(re.findall(r"{{(\w+)}}", target["legendFormat"])) - query.labels:
                found.append(f"{panel['title']}: its legend has no label {label}")
    return found


def used_variables(text: str) -> set[str]:
    return set(re.findall(r"\$\{?([a-z]\w*)", text))


def panels(dashboard: dict) -> list[dict]:
    return [one for one in dashboard["panels"] if one["type"] != "row"]


def wrong_in_alerts(text: str) -> list[str]:
    """Return what is wrong with the rules' expressions, and the labels that their texts name."""
    found = []
    for rule in rules(text):
        query = Query(rule["expr"])
        found += [f"{rule['alert']}: {fault}" for fault in query.faults]
        told = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        found += [f"{rule['alert']}: its text has no label {label}" for label in told - query.labels]
    return found


def test_the_dashboard_asks_only_for_what_mooring_exposes():
    assert wrong_in_dashboard(DASHBOARD) == []


def test_the_alert_rules_ask_only_for_what_mooring_exposes():
    assert wrong_in_alerts(ALERTS.read_text()) == []


def test_every_metric_asked_for_is_documented():
    queries = [target["expr"] for panel in panels(json.loads(DASHBOARD)) for target in panel["targets"]]
    queries += [rule["expr"] for rule in rules(ALERTS.read_text())]
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for query in queries for name in Query(query).names} - {
        "up"
    }
    assert len(names) > 30
    assert {name for name in names if not re.search(rf"`{name}\b", DOCUMENTED)} == set()


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("mooring_spool_bytes{", "mooring_spool_byte{", "there is no metric mooring_spool_byte"),
        ("mooring_answers_total{", "mooring_answers{", "there is no metric mooring_answers"),
        ("_seconds_bucket{", "_seconds{", "there is no metric mooring_answer_duration_seconds"),
        ("sum by (status) (", "sum by (state) (", "there is no label state"),
        ("sum by (le) (", "sum by (status) (", "there is no label le"),
        ('status!~\\"', 'code!~\\"', "there is no label code"),
        ("sum(mooring_ready{", "sum without (mooring_ready{", "invalid"),
        ("rate(mooring_requests_passed_total{", "rate(mooring_requests_waiting{", "rate() is not for"),
        ("rate(mooring_labels_total", "deriv(mooring_labels_total", "deriv() is not for"),
        ("on (model) group_left", "on (model, version) group_left", "there is no label version"),
        ("on (model, version) (", "on (model, state) (", "there is no label state"),
        ("{{status}}", "{{statuses}}", "no label statuses"),
        ('\\"$model\\"', '\\"$models\\"', "no variable models"),
        ('measure)"', 'measured)"', "no label measured"),
    ],
)
def test_what_is_wrong_in_a_dashboard_is_found(right, wrong, told):
    changed = DASHBOARD.replace(right, wrong)
    assert changed != DASHBOARD
    assert any(told in fault for fault in wrong_in_dashboard(changed))


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("mooring_ready <", "mooring_readiness <", "there is no metric mooring_readiness"),
        ("ignoring (state) mooring_servers", "ignoring (status) mooring_servers", "there is no label status"),
        ("ignoring (reason) ", "", "never match, because of reason"),
        (
            "sum without (reason) (mooring_exchanges_dropped_total)",
            "mooring_exchanges_dropped_total",
            "never match",
        ),
        ("$labels.version", "$labels.versions", "no label versions"),
        ('status="failed"', 'state="failed"', "there is no label state"),
        ("delta(mooring_spool_bytes[30m])", "delta(mooring_spool_bytes)", "expected type matrix"),
    ],
)
def test_what_is_wrong_in_an_alert_rule_is_found(right, wrong, told):
    text = ALERTS.read_text()
    changed = text.replace(right, wrong)
    assert changed != text
    assert any(told in fault for fault in wrong_in_alerts(changed))


def test_every_panel_says_what_it_shows_and_asks_for_it():
    dashboard = json.loads(DASHBOARD)
    assert "id" not in dashboard  # a database's, which an import must not name
    assert dashboard["uid"] == "mooring"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels(dashboard):
        assert panel["title"], panel["id"]
        assert panel["description"], panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    titles = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert titles == ["Is all well?", "Traffic", "Versions", "Capture", "Model servers", "Monitor"]


def test_no_two_panels_lie_on_each_other():
    taken = set()
    for panel in json.loads(DASHBOARD)["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_its_colours_are_those_that_the_colour_blind_tell_apart():
    assert set(re.findall(r'"(?:color|fixedColor)": "([^"]+)"', DASHBOARD)) <= COLOURS


def test_every_alert_is_documented_with_how_long_it_waits_and_no_other():
    table = re.findall(r"^\| `(Mooring\w+)` \| ([^|]+) \|", OPERATE, re.MULTILINE)
    waits = {rule["alert"]: rule.get("for", "at once").replace("m", " min") for rule in rules(ALERTS.read_text())}
    assert dict(table) == waits


def test_every_alert_says_what_is_wrong_how_bad_and_which_command_helps():
    for rule in rules(ALERTS.read_text()):
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        assert re.search(r"\bmooring [a-z]", rule["annotations"]["description"]), rule["alert"]


def test_every_command_that_dashboard_and_alerts_name_exists():
    texts = [panel["description"] for panel in panels(json.loads(DASHBOARD))]
    texts += [rule["annotations"]["description"] for rule in rules(ALERTS.read_text())]
    named = re.findall(r"\bmooring ([a-z]+)(?: ([a-z]+))?", " ".join(texts))
    assert len(named) > 20
    for name, further in named:
        command = main.commands.get(name)
        assert command is not None, f"mooring {name}"
        if isinstance(command, click.Group) and name in ("log", "rollout"):
            assert further in command.commands, f"mooring {name} {further}"


def test_the_jobs_to_scrape_are_those_that_the_alert_on_them_means():
    [down] = [rule["expr"] for rule in rules(ALERTS.read_text()) if rule["alert"] == "MooringDown"]
    pattern = re.search(r'job=~"([^"]+)"', down)[1]
    assert all(re.fullmatch(pattern, job["job_name"]) for job in SCRAPES)
