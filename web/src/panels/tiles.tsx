// Six totals of the range, each with its change and with what is not in it.

import type { Answer } from "../api/answers";
import type { Unit } from "../api/shapes";
import { compact, counted, difference, figure, formatted, numberOf } from "../numbers";
import { useWorkspace } from "../workspace";
import type { Totals } from "./totals";
import { Trouble } from "./trouble";

interface Tile {
  title: string;
  metric: string;
  aside: (read: (member: string) => number | null) => string;
}

const TILES: Tile[] = [
  { title: "Cost", metric: "cost_usd", aside: (read) => without(read("unpricedRequests")) },
  { title: "Requests", metric: "requests", aside: (read) => counted(read("errors") ?? 0, "error") },
  {
    title: "Tokens",
    metric: "total_tokens",
    aside: (read) => `${short(read("inputTokens"), "tokens")} in, ${short(read("outputTokens"), "tokens")} out`,
  },
  { title: "Error rate", metric: "error_rate", aside: () => "of all requests" },
  {
    title: "Latency p95",
    metric: "latency_p95_ms",
    aside: (read) => `p50 ${short(read("latencyP50Ms"), "ms")}, p99 ${short(read("latencyP99Ms"), "ms")}`,
  },
  { title: "Users", metric: "distinct_users", aside: () => "distinct over the range" },
];

const short = (value: number | null, unit: Unit): string => (value === null ? "–" : compact(value, unit));

const without = (unpriced: number | null): string =>
  unpriced ? `not in it: ${counted(unpriced, "request")} without a price` : "of all requests";

export function Tiles({ totals }: { totals: Answer<Totals> }) {
  if (totals.error) return <Trouble error={totals.error} />;
  return (
    <dl class="tiles" aria-label="Totals of the range" aria-busy={totals.isLoading}>
      {TILES.map((tile) => (
        <One key={tile.metric} tile={tile} totals={totals.value} />
      ))}
    </dl>
  );
}

function One({ tile, totals }: { tile: Tile; totals: Totals | undefined }) {
  const { view, catalogue } = useWorkspace();
  const { member, unit } = catalogue.metric(tile.metric);
  const isThere = totals?.metrics.has(tile.metric);
  const now = isThere ? numberOf(totals?.now[member]) : null;
  const before = numberOf(totals?.before[member]);
  const filters = view.filters.map((filter) => catalogue.titleOf(filter.name)).join(", ");
  const missing = `cannot be told for: ${filters}`;
  return (
    <div class="tile">
      <dt>{tile.title}</dt>
      <dd class="number-large">{totals ? figure(now, unit) : " "}</dd>
      <dd class="aside">
        {view.compare !== "none" && isThere && <ChangeText now={now} before={before} unit={unit} />}
        <span>{totals && (isThere ? tile.aside((name) => numberOf(totals.now[name])) : missing)}</span>
      </dd>
    </div>
  );
}

export function ChangeText({ now, before, unit }: { now: number | null; before: number | null; unit: Unit }) {
  const change = difference(now, before, unit);
  if (!change) return <span class="change">{now && !before ? "new" : before && now === null ? "gone" : "–"}</span>;
  const arrow = { up: "▲", down: "▼", same: "" }[change.direction];
  return (
    <span class={`change ${change.direction}`} title={`before: ${formatted(before, unit)}`}>
      <span aria-hidden="true">{arrow} </span>
      {change.text}
    </span>
  );
}
