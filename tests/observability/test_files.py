"""The dashboard and the rules as files: well-formed, complete, and explained in the operator's guide."""

import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.observability.promql import (
    DASHBOARD,
    FOLDER,
    RULES,
    RULES_TEST,
    TARGET_LABELS,
    alerts,
    dashboard,
    expressions,
    needs,
    panel_queries,
    panels,
    rules,
    unmet,
    unsummed,
)
from tests.programs import program

GUIDE = FOLDER.parents[1] / "docs" / "operations.md"
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def promtool(*arguments: str) -> str:
    tool = program("promtool")
    done = subprocess.run(
        [str(tool.path), *arguments], env=tool.env, cwd=FOLDER, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def name(alert: dict[str, Any]) -> str:
    return f"{alert['alert']}-{alert['labels']['severity']}"


class TestRules:
    def test_prometheus_accepts_them(self) -> None:
        assert f"SUCCESS: {len(rules())} rules found" in promtool("check", "rules", RULES.name)

    def test_every_alert_fires_when_it_should_and_only_then(self) -> None:
        assert "SUCCESS" in promtool("test", "rules", RULES_TEST.name)

    @pytest.mark.parametrize(
        "alert", alerts(), ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}"
    )
    def test_an_alert_is_seen_to_fire_and_to_be_quiet(self, alert: dict[str, Any]) -> None:
        cases = [
            case
            for test in yaml.safe_load(RULES_TEST.read_text())["tests"]
            for case in test["alert_rule_test"]
            if case["alertname"] == alert["alert"]
        ]
        fired = {each["exp_labels"]["severity"] for case in cases for each in case.get("exp_alerts", ())}
        assert alert["labels"]["severity"] in fired
        assert any(not case.get("exp_alerts") for case in cases)

    @pytest.mark.parametrize(
        "alert", alerts(), ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}"
    )
    def test_an_alert_says_what_is_wrong_and_where_to_read_on(self, alert: dict[str, Any]) -> None:
        assert alert["labels"]["severity"] in ("critical", "warning")
        told = alert["annotations"]
        assert told.keys() == {"summary", "description", "runbook_url"}
        page, _, anchor = told["runbook_url"].partition("#")
        assert FOLDER.parents[1] / page == GUIDE
        assert anchor == alert["alert"].lower()
        assert anchor in {heading.lower() for heading in _HEADING.findall(GUIDE.read_text())}

    def test_the_guide_explains_no_alert_that_there_is_not(self) -> None:
        explained = {name for name in _HEADING.findall(GUIDE.read_text()) if name.startswith("Caravan")}
        assert explained == {alert["alert"] for alert in alerts()}

    def test_links_within_the_guide_lead_somewhere(self) -> None:
        guide = GUIDE.read_text()
        anchors = {heading.lower().replace(" ", "-").replace("'", "") for heading in _HEADING.findall(guide)}
        assert set(re.findall(r"\]\(#([^)]+)\)", guide)) <= anchors


class TestDashboard:
    def test_it_can_be_found_and_changed(self) -> None:
        board = dashboard()
        assert (board["uid"], board["title"]) == ("caravan", "Caravan")
        assert board["schemaVersion"] >= 36
        assert "id" not in board

    def test_panels_have_ids_of_their_own_and_do_not_overlap(self) -> None:
        every = dashboard()["panels"]
        assert len({panel["id"] for panel in every}) == len(every)
        for one, other in combinations((panel["gridPos"] for panel in every), 2):
            apart = (
                one["x"] + one["w"] <= other["x"]
                or other["x"] + other["w"] <= one["x"]
                or one["y"] + one["h"] <= other["y"]
                or other["y"] + other["h"] <= one["y"]
            )
            assert apart, (one, other)
            assert one["x"] + one["w"] <= 24

    def test_every_panel_asks_the_chosen_data_source_and_explains_itself(self) -> None:
        for panel in panels():
            assert panel["description"].endswith("."), panel["title"]
            assert panel["targets"], panel["title"]
            for part in (panel, *panel["targets"]):
                assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}

    def test_variables_are_all_used_and_all_there(self) -> None:
        defined = {variable["name"] for variable in dashboard()["templating"]["list"]}
        used = set(re.findall(r"\$\{?(?!__)(\w+)", DASHBOARD.read_text()))
        assert used == defined == {"datasource", "job", "instance", "model", "key", "engine"}

    def test_every_expression_is_promql(self) -> None:
        titles = {title for title, expr in panel_queries("1m") if promql_parser.parse(expr)}
        assert titles == {panel["title"] for panel in panels()}


class TestFrontEnds:
    """A server of several front ends counts by each, and is one server to alerts and panels."""

    def test_no_expression_tells_one_front_end_from_another(self) -> None:
        assert {expr: found for expr in expressions() if (found := unsummed(expr))} == {}

    def test_an_expression_that_does_is_found(self) -> None:
        assert unsummed("a > 1 and sum by (b) (c)") == ["a"]
        assert unsummed("sum by (b) (a / c)") == ["a", "c"]
        assert unsummed("rate(a[5m])") == ["a"]
        assert unsummed("sum by (front_end) (a)") == ["a"]
        assert unsummed("max by (b) (avg_over_time(a[5m])) > 0.5 or absent(c) * 0") == []

    @pytest.mark.parametrize("processes", [("",), ("0", "1", "2")], ids=["one process", "two front ends"])
    @pytest.mark.parametrize(
        ("title", "series", "labels", "value"),
        [
            # 16 tokens in each of 60 steps a minute, half of each step for either front end.
            (
                "Tokens of a step",
                {
                    "vllm:iteration_tokens_total_sum": {"": 960, "0": 0, "1": 480, "2": 480},
                    "vllm:iteration_tokens_total_count": {"": 60, "0": 0, "1": 60, "2": 60},
                },
                '{model_name="m"}',
                16,
            ),
            # All look at the files, and see each change.
            (
                "Changes of keys",
                {"caravan_keys_reloads_total": dict.fromkeys(("", "0", "1", "2"), 1)},
                '{instance="a", outcome="ok"}',
                60,
            ),
        ],
    )
    def test_what_each_front_end_counts_is_not_counted_twice(
        self,
        title: str,
        series: dict[str, dict[str, int]],
        labels: str,
        value: float,
        processes: tuple[str, ...],
        tmp_path: Path,
    ) -> None:
        whose = {each: f', front_end="{each}"' if each else "" for each in processes}
        told = 'job="caravan", instance="a", model_name="m", engine="0", outcome="ok"'
        given = [
            {"series": f"{name}{{{told}{whose[each]}}}", "values": f"0+{counts[each]}x90"}
            for name, counts in series.items()
            for each in processes
        ]
        (expr,) = (expr for name, expr in panel_queries("5m") if name == title)
        near = f"abs(({expr}) - {value}) < bool 0.001"
        expected = {"expr": near, "eval_time": "90m", "exp_samples": [{"labels": labels, "value": 1}]}
        test = {"interval": "1m", "input_series": given, "promql_expr_test": [expected]}
        file = tmp_path / "test.yaml"
        file.write_text(yaml.safe_dump({"tests": [test]}))
        assert "SUCCESS" in promtool("test", "rules", str(file))


def test_a_name_or_label_that_is_not_exported_is_found() -> None:
    expr = 'sum by (model, instance) (rate(a_total{key="1"}[1m])) / on (model) b > 1 and absent(c)'
    assert {need.metric: need.labels - TARGET_LABELS for need in needs(expr)} == {
        "a_total": {"model", "key"},
        "b": set(),
        "c": set(),
    }
    series = {"a_total": frozenset({"model"}), "b": frozenset[str]()}
    assert unmet([expr], series) == ["a_total{key}", "c"]
