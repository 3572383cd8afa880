"""The dashboard of deploy/grafana asks for metrics that /metrics has, by labels that they have."""

import json
import re
from collections.abc import Iterator
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from usage_pipeline_tests.rigs.places import DOCS, PROJECT
from usage_pipeline_tests.rigs.service import Shared

DASHBOARD = json.loads((PROJECT / "deploy" / "grafana" / "usage_pipeline.json").read_text(encoding="utf-8"))
METRIC = re.compile(r"usage_pipeline_\w+")
# A histogram's own, and what Prometheus adds: which server it asked, and what a label of that name becomes.
EVERYWHERE = {"le", "instance"}


def samples_of(text: str) -> set[str]:
    """The names that a query may use."""
    names = set()
    for family in text_string_to_metric_families(text):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    return names


def documented_labels() -> dict[str, set[str]]:
    rows = re.findall(r"^\| (`usage_pipeline_.*?) \| (.*?) \|", (DOCS / "http.md").read_text(), re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for names, labels in rows for name in METRIC.findall(names)}


def queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def test_each_query_is_answered_by_metrics_and_labels_that_are_there(shared: Shared) -> None:
    shared.client.get("/api/usage/summary").raise_for_status()
    exposed = samples_of(shared.client.get("/metrics").text)
    labels = documented_labels()
    asked: set[str] = set()
    for title, query in queries():
        metrics = METRIC.findall(query)
        assert metrics, title
        assert set(metrics) <= exposed, title
        asked |= set(metrics)
        of_metric = labels[re.sub("_bucket$", "", metrics[0])]
        used = {name for group in re.findall(r"by \(([^)]*)\)", query) for name in re.split(r"\W+", group)}
        used |= set(re.findall(r"[{,](\w+)=", query))
        own = {name.removeprefix("exported_") for name in used}
        assert own <= of_metric | EVERYWHERE, f"{title}: {used}"
    assert len(asked) > 15
    variable = DASHBOARD["templating"]["list"][1]["query"]["query"]
    assert set(METRIC.findall(variable)) <= exposed


def test_panels_do_not_overlap_and_have_an_id_each() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: list[tuple[int, int]] = []
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells += [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
    assert len(set(cells)) == len(cells)
