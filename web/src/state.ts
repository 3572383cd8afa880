// What the page shows, as its address says it: a link shows what the sender saw, and back and forward work.

import type { Grain, Range } from "./api/shapes";
import { addDays, isDay, lengthOf } from "./days";

export interface Filter {
  name: string;
  value: string;
}

export type Compare = "none" | "previous" | "month_before";
export type Outcome = "all" | "error" | "ok";

export interface View extends Range {
  tab: string;
  /** "": chosen by the length of the range. */
  grain: Grain | "";
  groupBy: string[];
  metric: string;
  compare: Compare;
  filters: Filter[];
  /** "": by the metric, the largest first. */
  order: string;
  /** Single requests: not shown where it is "". */
  requests: Outcome | "";
  /** Of the single requests, those that failed with this type. */
  errorType: string;
  /** What the changes of cost are split by. */
  changesBy: string;
}

const GRAINS: readonly string[] = ["hour", "day", "week", "month"];
const COMPARES: readonly string[] = ["none", "previous", "month_before"];
const USUAL_METRIC = "cost_usd";
const OUTCOMES: readonly string[] = ["all", "error", "ok"];

const among = <T extends string>(known: readonly string[], given: string | null, otherwise: T): T =>
  given !== null && known.includes(given) ? (given as T) : otherwise;

export function readView(search: string, today: string, isMetric: (name: string) => boolean): View {
  const given = new URLSearchParams(search);
  const text = (name: string, otherwise: string) => given.get(name) ?? otherwise;
  const metric = text("metric", USUAL_METRIC);
  return {
    tab: text("tab", "usage"),
    ...readRange(given.get("from"), given.get("to"), today),
    grain: among<Grain | "">(GRAINS, given.get("grain"), ""),
    groupBy: text("group_by", "team").split(",").filter(Boolean),
    metric: isMetric(metric) ? metric : USUAL_METRIC,
    compare: among<Compare>(COMPARES, given.get("compare"), "previous"),
    filters: [...given]
      .filter(([name]) => name.startsWith("filter."))
      .map(([name, value]) => ({ name: name.slice("filter.".length), value })),
    order: text("order", ""),
    requests: among<Outcome | "">(OUTCOMES, given.get("requests"), ""),
    errorType: text("error_type", ""),
    changesBy: text("changes_by", "team"),
  };
}

function readRange(from: string | null, to: string | null, today: string): Range {
  if (isDay(from) && isDay(to) && from <= to) return { from, to };
  return { from: addDays(today, -29), to: today };
}

/** The address's query. Days are always in it: "the last 30 days" of the reader are not those of the sender. */
export function writeView(view: View): string {
  const parts = new URLSearchParams();
  const add = (name: string, value: string, usual: string) => value !== usual && parts.set(name, value);
  add("tab", view.tab, "usage");
  parts.set("from", view.from);
  parts.set("to", view.to);
  add("grain", view.grain, "");
  add("group_by", view.groupBy.join(","), "team");
  add("metric", view.metric, USUAL_METRIC);
  add("compare", view.compare, "previous");
  for (const { name, value } of view.filters) parts.append(`filter.${name}`, value);
  add("order", view.order, "");
  add("requests", view.requests, "");
  add("error_type", view.errorType, "");
  add("changes_by", view.changesBy, "team");
  return `?${parts}`;
}

export function usualGrain(range: Range): Grain {
  const days = lengthOf(range);
  if (days <= 2) return "hour";
  if (days <= 92) return "day";
  return days <= 400 ? "week" : "month";
}

export const grainOf = (view: View): Grain => view.grain || usualGrain(view);

/** A filter more. What was grouped by it alone is grouped by something finer then: there would be one bar. */
export function withFilter(view: View, name: string, value: string): Partial<View> {
  const finer = FINER[name];
  const isOnlyGrouping = view.groupBy.length === 1 && view.groupBy[0] === name;
  return {
    filters: withFilters(view.filters, [{ name, value }]),
    ...(finer && isOnlyGrouping && { groupBy: [finer], order: "" }),
  };
}

const FINER: Record<string, string> = { team: "model", service: "model", provider: "model" };

export const withFilters = (filters: Filter[], added: Filter[]): Filter[] => [
  ...filters,
  ...added.filter(({ name, value }) => !filters.some((one) => one.name === name && one.value === value)),
];

/** What a click on a group does: a filter for its values. An error type filters single requests: no other number knows it. */
export function choose(view: View, values: Filter[]): Partial<View> {
  const errorType = values.find(({ name }) => name === "error_type")?.value;
  const [only, ...others] = values.filter(({ name }) => name !== "error_type");
  const filters = only && others.length ? { filters: withFilters(view.filters, [only, ...others]) } : {};
  const filtered = only && !others.length ? withFilter(view, only.name, only.value) : filters;
  return errorType === undefined ? filtered : { ...filtered, requests: "error", errorType };
}

export const withoutFilter = (view: View, name: string, value: string): Partial<View> => ({
  filters: view.filters.filter((one) => one.name !== name || one.value !== value),
});
