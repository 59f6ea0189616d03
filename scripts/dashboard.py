"""Draws the Grafana dashboard, deploy/observability/dashboard.json, from the panels.yaml beside it."""

import re
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Literal, TypeAlias

import yaml
from grafana_foundation_sdk.builders import dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model
from pydantic import BaseModel, ConfigDict, Field

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "deploy/observability/panels.yaml"
DATA_SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
_SELECTOR = re.compile(r"(?<=[{ ]):(\w+)")

Kind: TypeAlias = Literal["lines", "stack", "number", "states"]
Drawn: TypeAlias = stat.Panel | timeseries.Panel | statetimeline.Panel


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Panel(Part):
    """One picture; `says` tells its reader what is good and what is not."""

    title: str
    says: str
    queries: dict[str, str] = Field(min_length=1)
    kind: Kind = "lines"
    unit: str = "short"
    width: Annotated[int, Field(gt=0, le=24)] = 8
    warn: float | None = None
    alarm: float | None = None


class Row(Part):
    title: str
    panels: list[Panel]


class Variable(Part):
    label: str
    query: str


class Source(Part):
    """The whole of panels.yaml."""

    selectors: dict[str, str]
    variables: dict[str, Variable]
    rows: list[Row]

    def expression(self, query: str) -> str:
        """A query with its selectors written out; a `KeyError` names one that there is not."""
        return _SELECTOR.sub(lambda found: self.selectors[found[1]], query)


def dashboard_json() -> str:
    source = Source.model_validate(yaml.safe_load(SOURCE.read_text("utf-8")))
    built = (
        dashboard.Dashboard("Caravan")
        .uid("caravan")
        .description("Requests, latency, queues, tokens, engines and keys of Caravan's replicas.")
        .tags(["caravan", "llm", "vllm"])
        .timezone("browser")
        .refresh("30s")
        .time("now-3h", "now")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for name, variable in source.variables.items():
        built = built.with_variable(_choice(name, variable))
    ids = count(1)
    for row in source.rows:
        built = built.with_row(dashboard.Row(row.title).id(next(ids)))
        for panel in row.panels:
            built = built.with_panel(_panel(panel, source).id(next(ids)))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def _choice(name: str, variable: Variable) -> dashboard.QueryVariable:
    """Any number of values. "All" takes in series without the label, such as those of no key."""
    return (
        dashboard.QueryVariable(name)
        .label(variable.label)
        .datasource(DATA_SOURCE)
        .query({"query": variable.query, "refId": name})
        .definition(variable.query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(text="All", value="$__all"))
    )


def _panel(panel: Panel, source: Source) -> Drawn:
    drawn = _KINDS[panel.kind](panel).title(panel.title).description(panel.says).unit(panel.unit)
    drawn = drawn.datasource(DATA_SOURCE).height(4 if panel.kind == "number" else 8).span(panel.width)
    for number, (legend, query) in enumerate(panel.queries.items()):
        asked = (
            prometheus.Dataquery()
            .ref_id(ascii_uppercase[number])
            .datasource(DATA_SOURCE)
            .legend_format(legend)
        )
        drawn = drawn.with_target(asked.expr(source.expression(query)))
    return drawn


def _lines(_: Panel) -> timeseries.Panel:
    below, several = common.LegendPlacement.BOTTOM, common.TooltipDisplayMode.MULTI
    return (
        timeseries.Panel()
        .min(0)
        .fill_opacity(10)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            VizLegendOptions().show_legend(True).display_mode(common.LegendDisplayMode.LIST).placement(below)
        )
        .tooltip(VizTooltipOptions().mode(several).sort(common.SortOrder.DESCENDING))
    )


def _stack(panel: Panel) -> timeseries.Panel:
    return (
        _lines(panel).fill_opacity(40).stacking(StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    )


def _number(panel: Panel) -> stat.Panel:
    steps = [model.Threshold(value=None, color="green")]
    limits = ((panel.warn, "orange"), (panel.alarm, "red"))
    steps += [model.Threshold(value, colour) for value, colour in limits if value is not None]
    return (
        stat.Panel()
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.AREA)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
    )


def _states(_: Panel) -> statetimeline.Panel:
    shown = {
        "0": model.ValueMappingResult(text="not loaded", color="orange", index=0),
        "1": model.ValueMappingResult(text="loaded", color="green", index=1),
    }
    return statetimeline.Panel().mappings([model.ValueMap(options=shown)])


_KINDS: Mapping[Kind, Callable[[Panel], Drawn]] = {
    "lines": _lines,
    "stack": _stack,
    "number": _number,
    "states": _states,
}
