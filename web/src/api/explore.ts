// Questions to /api/usage/explore, and what may be asked (its dimensions document).

import { plain } from "../numbers";
import type { Filter } from "../state";
import type { Combination, Dimension, Dimensions, Grain, Metric, Row } from "./shapes";

export interface Query {
  from: string;
  to: string;
  grain: Grain;
  groupBy: string[];
  metrics: string[];
  filters: Filter[];
  order?: string;
  limit?: number;
  compare?: string;
}

export function explorePath(query: Query, format?: "csv" | "parquet"): string {
  const parts = new URLSearchParams({ from: query.from, to: query.to, grain: query.grain });
  if (query.groupBy.length) parts.set("group_by", query.groupBy.join(","));
  parts.set("metrics", query.metrics.join(","));
  appendFilters(parts, query.filters);
  if (query.order) parts.set("order", query.order);
  if (query.compare && query.compare !== "none") parts.set("compare", query.compare);
  if (query.limit && !format) parts.set("limit", String(query.limit));
  if (format) parts.set("format", format);
  return `api/usage/explore?${parts}`;
}

export function appendFilters(parts: URLSearchParams, filters: Filter[]): void {
  for (const { name, value } of filters) parts.append(`filter.${name}`, value);
}

const ANY_TAG = "tag:*";
const familyOf = (dimension: string): string => (dimension.startsWith("tag:") ? ANY_TAG : dimension);

/** What may be asked together. */
export class Catalogue {
  private readonly metrics: Map<string, Metric>;

  constructor(readonly document: Dimensions) {
    this.metrics = new Map(document.metrics.map((metric) => [metric.name, metric]));
  }

  metric(name: string): Metric {
    const found = this.metrics.get(name);
    if (!found) throw new Error(`expected a metric of the service, came ${name}`);
    return found;
  }

  has(name: string): boolean {
    return this.metrics.has(name);
  }

  titleOf(dimension: string): string {
    return this.dimension(dimension)?.title ?? dimension;
  }

  /** Several groupings within a sentence: "team and API key". */
  titlesOf(dimensions: string[]): string {
    const lowered = (title: string) =>
      /^[A-Z]{2}/.test(title) ? title : title.charAt(0).toLowerCase() + title.slice(1);
    return dimensions.map((name) => lowered(this.titleOf(name))).join(" and ");
  }

  /** The value of a row's grouping; null where it has none. */
  valueOf(row: Row, dimension: string): string | null {
    const value = row[this.dimension(dimension)?.member ?? dimension];
    return typeof value === "string" ? value : null;
  }

  /** The groupings of a row as one text, which also tells groups apart. */
  groupOf(row: Row, groupBy: string[]): string {
    return groupBy.map((name) => plain(this.valueOf(row, name))).join(" / ");
  }

  /** The grouping of a row as a filter; undefined where its value cannot be filtered for. */
  filterOf(row: Row, dimension: string): Filter | undefined {
    const value = this.valueOf(row, dimension);
    if (value === null && !this.dimension(dimension)?.canBeNone) return undefined;
    return { name: dimension, value: value ?? "" };
  }

  filtersOf(row: Row, groupBy: string[]): Filter[] {
    return groupBy.map((name) => this.filterOf(row, name)).filter((filter) => filter !== undefined);
  }

  private dimension(name: string): Dimension | undefined {
    return this.document.dimensions.find((one) => one.name === name);
  }

  allows(dimensions: string[], grain: Grain, metrics: string[]): boolean {
    return this.holding(dimensions, grain).some((one) => metrics.every((name) => one.metrics.includes(name)));
  }

  /** The metrics among these that can be asked for, in groups that can be asked for together: as few as there need be. */
  batches(dimensions: string[], grain: Grain, metrics: string[]): string[][] {
    const holding = this.holding(dimensions, grain);
    const batches: string[][] = [];
    let left = metrics;
    for (;;) {
      const parts = holding.map((one) => left.filter((name) => one.metrics.includes(name)));
      const largest = parts.reduce((best, part) => (part.length > best.length ? part : best), [] as string[]);
      if (!largest.length) return batches;
      batches.push(largest);
      left = left.filter((name) => !largest.includes(name));
    }
  }

  /** The grain itself where it can be asked for, or the next longer one; undefined: none can. */
  grainFor(dimensions: string[], metrics: string[], wanted: Grain): Grain | undefined {
    const grains: Grain[] = ["hour", "day", "week", "month"];
    return grains.slice(grains.indexOf(wanted)).find((grain) => this.allows(dimensions, grain, metrics));
  }

  private holding(dimensions: string[], grain: Grain): Combination[] {
    if (dimensions.filter((name) => familyOf(name) === ANY_TAG).length > 1) return [];
    return this.document.combinations.filter(
      (one) => one.grains.includes(grain) && dimensions.every((name) => one.dimensions.includes(familyOf(name))),
    );
  }
}

/** Whether the parts of a sum may be added up: shares, percentiles, averages and distinct users may not. */
export const isSummable = (metric: Metric): boolean =>
  ["usd", "requests", "tokens"].includes(metric.unit) && !metric.name.includes("_per_");
