// Requests, tokens by kind, errors by type and latency over time.

import { useMemo } from "preact/hooks";
import { useAnswer } from "../api/answers";
import { explorePath } from "../api/explore";
import type { Explored, Grain, Row } from "../api/shapes";
import { SHADES, shadeOf } from "../charts/colours";
import { Figure } from "../charts/figure";
import { axisOf, type Drawing, groupedSeries, remainder, type Series, valuesOf } from "../charts/series";
import { numberOf } from "../numbers";
import { choose, grainOf } from "../state";
import { dimensionsOf, useWorkspace } from "../workspace";

const COUNTS = [
  "requests",
  "errors",
  "input_tokens",
  "output_tokens",
  "total_tokens",
  "cache_read_tokens",
  "reasoning_tokens",
];
const LATENCIES = ["latency_p50_ms", "latency_p95_ms", "latency_p99_ms"];
const MOST_ROWS = 10_000;

export function SmallCharts() {
  return (
    <div class="grid">
      <Counts />
      <ErrorsByType />
      <Latency />
    </div>
  );
}

/** A question about the whole view by time, ungrouped but for `groupBy`; what cannot be had by the hour comes by the day. */
function useSeries(metrics: string[], groupBy: string[] = []) {
  const { view, catalogue } = useWorkspace();
  const grain = catalogue.grainFor(dimensionsOf(view, groupBy), metrics, grainOf(view));
  const path = grain && explorePath({ ...view, grain, groupBy, metrics, compare: "none", order: "", limit: MOST_ROWS });
  const answer = useAnswer<Explored>(path ?? null);
  const axis = useMemo(
    () => answer.value && axisOf(view, grain as Grain, catalogue.document.timezone, answer.value.items),
    [answer.value],
  );
  return { ...answer, axis, rows: answer.value?.items ?? [], grain };
}

function Counts() {
  const found = useSeries(COUNTS);
  const { axis, rows } = found;
  const requests = useMemo((): Drawing | undefined => {
    if (!axis) return undefined;
    const read = (member: string) => valuesOf(axis, rows, (row) => numberOf(row[member]));
    const errors = read("errors");
    const good = read("requests").map((value, place) => (value ?? 0) - (errors[place] ?? 0));
    const series: Series[] = [
      { name: "succeeded", shade: "shade-1", values: good },
      { name: "failed", shade: "shade-2", values: errors },
    ];
    return { kind: "bars", unit: "requests", ...axis, series, hasTotal: true };
  }, [axis]);
  const tokens = useMemo((): Drawing | undefined => {
    if (!axis) return undefined;
    const series = KINDS.map(
      ({ name, read }, place): Series => ({ name, shade: shadeOf(place), values: valuesOf(axis, rows, read) }),
    );
    return { kind: "bars", unit: "tokens", ...axis, series, hasTotal: true };
  }, [axis]);
  return (
    <>
      <Figure title="Requests" drawing={requests} {...found} empty={<p>No requests on these days.</p>} />
      <Figure title="Tokens by kind" drawing={tokens} {...found} empty={<p>No tokens on these days.</p>} />
    </>
  );
}

const member = (row: Row, name: string): number => numberOf(row[name]) ?? 0;
// Input and output include their parts: each token is in one kind only.
const KINDS = [
  { name: "input", read: (row: Row) => member(row, "inputTokens") - member(row, "cacheReadTokens") },
  { name: "cached input", read: (row: Row) => member(row, "cacheReadTokens") },
  { name: "output", read: (row: Row) => member(row, "outputTokens") - member(row, "reasoningTokens") },
  { name: "reasoning", read: (row: Row) => member(row, "reasoningTokens") },
];

function ErrorsByType() {
  const { view, catalogue, change } = useWorkspace();
  const found = useSeries(["errors"], ["error_type"]);
  const { axis, rows } = found;
  const drawing = useMemo((): Drawing | undefined => {
    if (!axis) return undefined;
    const typeOf = (row: Row) => catalogue.groupOf(row, ["error_type"]);
    const sums = new Map<string, number>();
    for (const row of rows) sums.set(typeOf(row), (sums.get(typeOf(row)) ?? 0) + member(row, "errors"));
    const types = [...sums].sort((one, other) => other[1] - one[1]).map(([type]) => type);
    const series = groupedSeries(axis, rows, types.slice(0, SHADES), typeOf, "errors", 0);
    for (const one of series) one.choose = () => change(choose(view, [{ name: "error_type", value: one.name }]));
    const totals = axis.keys.map((key) =>
      rows.reduce((sum, row) => sum + (row.period === key ? member(row, "errors") : 0), 0),
    );
    const others = remainder(series, totals, `${types.length - SHADES} others`);
    return { kind: "bars", unit: "requests", ...axis, series: others ? [...series, others] : series, hasTotal: true };
  }, [axis]);
  return (
    <Figure
      title="Errors by type"
      note={<Grained grain={found.grain} />}
      drawing={drawing}
      {...found}
      empty={<p>No request failed on these days.</p>}
    />
  );
}

function Latency() {
  const found = useSeries(LATENCIES);
  const { axis, rows } = found;
  const drawing = useMemo((): Drawing | undefined => {
    if (!axis) return undefined;
    const series = ["p50", "p95", "p99"].map(
      (name, place): Series => ({
        name,
        shade: shadeOf(place),
        values: valuesOf(axis, rows, (row) => numberOf(row[`latency${name.toUpperCase()}Ms`]), null),
      }),
    );
    return { kind: "lines", unit: "ms", ...axis, series, hasTotal: false };
  }, [axis]);
  return (
    <Figure
      title="Latency p50, p95, p99"
      note={<Grained grain={found.grain} />}
      drawing={drawing}
      {...found}
      empty={<p>No request on these days says how long it took (`latency_ms`).</p>}
    />
  );
}

function Grained({ grain }: { grain: Grain | undefined }) {
  const { view, catalogue } = useWorkspace();
  const names = catalogue.titlesOf([...new Set(view.filters.map((filter) => filter.name))]);
  if (!grain) return <>Not kept for these filters: {names}.</>;
  return grain === grainOf(view) ? null : (
    <>
      By {grain}: it is not kept by {grainOf(view)}.
    </>
  );
}
