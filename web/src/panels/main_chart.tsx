// The metric over time, by the grouping: the eight largest groups and all others.

import { useMemo } from "preact/hooks";
import { useAnswer } from "../api/answers";
import { type Catalogue, explorePath, isSummable, type Query } from "../api/explore";
import type { Explored, Metric, Row } from "../api/shapes";
import { SHADES } from "../charts/colours";
import { Figure } from "../charts/figure";
import { axisOf, type Drawing, groupedSeries, remainder, type Series, valuesOf } from "../charts/series";
import { numberOf } from "../numbers";
import { choose, type Filter, grainOf, type View, withFilters } from "../state";
import { dimensionsOf, useWorkspace } from "../workspace";
import { Downloads } from "./downloads";
import { NoUsage } from "./empty";

const MOST_ROWS = 10_000;

export function MainChart() {
  const { view, catalogue, change } = useWorkspace();
  const metric = catalogue.metric(view.metric);
  const grain = catalogue.grainFor(dimensionsOf(view, view.groupBy), [metric.name], grainOf(view)) ?? grainOf(view);
  const query: Query = { ...view, grain, metrics: [metric.name], compare: "none", order: "" };
  const groups = useAnswer<Explored>(
    view.groupBy.length ? explorePath({ ...query, grain: "total", order: `-${metric.name}`, limit: SHADES }) : null,
    true,
  );
  const top = (groups.value?.items ?? []).filter((row) => numberOf(row[metric.member]) !== null);
  const ofTop = { ...query, filters: [...view.filters, ...filtersOf(top, view, catalogue)], limit: MOST_ROWS };
  const series = useAnswer<Explored>(view.groupBy.length && groups.value ? explorePath(ofTop) : null, true);
  const whole = catalogue.allows(dimensionsOf(view, []), grain, [metric.name]);
  const totals = useAnswer<Explored>(
    whole ? explorePath({ ...query, groupBy: [], compare: view.compare, limit: MOST_ROWS }) : null,
    true,
  );

  const isReady = (!view.groupBy.length || series.value) && (totals.value || !whole);
  const drawing = useMemo(() => {
    if (!isReady) return undefined;
    const drawn = drawingOf(view, grain, metric, catalogue, {
      top,
      rows: series.value?.items ?? [],
      totals: totals.value?.items ?? [],
      count: groups.value?.rows ?? 0,
    });
    top.forEach((row, place) => {
      const [one, filters] = [drawn.series[place], catalogue.filtersOf(row, view.groupBy)];
      if (one && filters.length) one.choose = () => change(choose(view, filters));
    });
    return drawn;
  }, [isReady, series.value, totals.value, groups.value]);

  const by = catalogue.titlesOf(view.groupBy);
  return (
    <Figure
      title={`${metric.title} by ${grain}${by && `, by ${by}`}`}
      note={
        view.grain && view.grain !== grain
          ? `By ${grain}: this metric and grouping cannot be had by ${view.grain}.`
          : undefined
      }
      actions={<Downloads query={query} what="this chart" />}
      drawing={drawing}
      error={groups.error ?? series.error ?? totals.error}
      isLoading={groups.isLoading || series.isLoading || totals.isLoading}
      empty={<NoUsage />}
      isLarge
    />
  );
}

// So that a question about twenty thousand users comes back with those of the chart. Where a group cannot be filtered for,
// everything is asked for, as far as an answer goes.
function filtersOf(top: Row[], view: View, catalogue: Catalogue): Filter[] {
  return view.groupBy.flatMap((name) => {
    const filters = top.map((row) => catalogue.filterOf(row, name));
    const isFiltered = view.filters.some((filter) => filter.name === name);
    if (isFiltered || filters.includes(undefined)) return [];
    return withFilters(
      [],
      filters.filter((filter) => filter !== undefined),
    );
  });
}

interface Found {
  top: Row[];
  rows: Row[];
  totals: Row[];
  /** How many groups there are. */
  count: number;
}

function drawingOf(view: View, grain: Query["grain"], metric: Metric, catalogue: Catalogue, found: Found): Drawing {
  const axis = axisOf(view, grain, catalogue.document.timezone, [...found.rows, ...found.totals]);
  const isSum = isSummable(metric);
  const gap = isSum ? 0 : null;
  const totals = valuesOf(axis, found.totals, (row) => numberOf(row[metric.member]), gap);
  const groupOf = (row: Row) => catalogue.groupOf(row, view.groupBy);
  const groups = found.top.map(groupOf);
  let series: Series[] = groupedSeries(axis, found.rows, groups, groupOf, metric.member, gap);
  if (!view.groupBy.length) series = [{ name: metric.title, shade: "shade-1", values: totals }];
  else if (isSum) {
    const others = remainder(series, totals, `${Math.max(1, found.count - groups.length)} others`);
    if (others) series.push(others);
  }
  const before = valuesOf(axis, found.totals, (row) => numberOf(row.previous?.[metric.member]), gap);
  if (view.compare !== "none" && isSum && before.some((value) => value)) {
    series.push({ name: "Total before", shade: "others", values: before, isBefore: true });
  }
  return {
    kind: isSum ? "bars" : "lines",
    unit: metric.unit,
    labels: axis.labels,
    periods: axis.periods,
    days: axis.days,
    series,
    hasTotal: isSum && view.groupBy.length > 0,
  };
}
