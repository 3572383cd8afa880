// The sums over the whole range, for the tiles and the last row of the table.

import { type Answer, useAnswers } from "../api/answers";
import { explorePath } from "../api/explore";
import type { Explored, Row, Value } from "../api/shapes";
import { dimensionsOf, useWorkspace } from "../workspace";

const WANTED = [
  "cost_usd",
  "requests",
  "errors",
  "error_rate",
  "input_tokens",
  "output_tokens",
  "total_tokens",
  "unpriced_requests",
  "cost_per_request_usd",
  "latency_p50_ms",
  "latency_p95_ms",
  "latency_p99_ms",
  "distinct_users",
];

export interface Totals {
  now: Row;
  before: Record<string, Value>;
  asOf: string | null;
  previous: Explored["previous"];
  /** The names of the metrics that can be had. */
  metrics: Set<string>;
}

export function useTotals(): Answer<Totals> {
  const { view, catalogue } = useWorkspace();
  const metrics = [...new Set([...WANTED, view.metric])].filter((name) => catalogue.has(name));
  const batches = catalogue.batches(dimensionsOf(view, []), "total", metrics);
  const answer = useAnswers<Explored>(
    batches.map((names) => explorePath({ ...view, grain: "total", groupBy: [], metrics: names, order: "" })),
  );
  return { ...answer, value: answer.value && joined(answer.value, new Set(batches.flat())) };
}

function joined(answers: Explored[], metrics: Set<string>): Totals {
  const rows = answers.map((answer) => answer.items[0] ?? {});
  return {
    now: Object.assign({}, ...rows),
    before: Object.assign({}, ...rows.map((row) => row.previous ?? {})),
    asOf: answers[0]?.asOf ?? null,
    previous: answers[0]?.previous,
    metrics,
  };
}
