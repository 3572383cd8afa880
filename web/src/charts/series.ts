// Series of a chart from the rows of an answer.

import type { Grain, Range, Row, Unit } from "../api/shapes";
import { daysOf, longPeriod, periodsOf, shortPeriod } from "../days";
import { numberOf } from "../numbers";
import { OTHERS, type Shade, shadeOf } from "./colours";

export interface Series {
  name: string;
  shade: Shade;
  values: (number | null)[];
  /** What a click on its name in the legend does; none: it is no button. */
  choose?: () => void;
  /** A line beside the bars, for comparison. */
  isBefore?: boolean;
}

export interface Drawing {
  kind: "bars" | "lines";
  unit: Unit;
  /** In a word or two, for the axis. */
  labels: string[];
  /** In full. */
  periods: string[];
  /** Those of each period, where it can be looked at by itself. */
  days?: (Range | undefined)[];
  series: Series[];
  /** Whether the series are parts of a whole, whose sum is worth saying. */
  hasTotal: boolean;
}

export interface Axis {
  keys: string[];
  labels: string[];
  periods: string[];
  days: (Range | undefined)[];
}

export function axisOf(range: Range, grain: Grain, timezone: string, rows: Row[]): Axis {
  const keys = periodsOf(range, grain, [...new Set(rows.map((row) => String(row.period)))]);
  return {
    keys,
    labels: keys.map((key) => shortPeriod(key, grain, timezone)),
    periods: keys.map((key) => longPeriod(key, grain, timezone)),
    days: keys.map((key) => daysOf(key, grain, range)),
  };
}

/** A metric of ungrouped rows along the axis. `gap` stands where there is no row. */
export function valuesOf(axis: Axis, rows: Row[], read: (row: Row) => number | null, gap: number | null = 0) {
  const byPeriod = new Map(rows.map((row) => [String(row.period), row]));
  return axis.keys.map((key) => {
    const row = byPeriod.get(key);
    return row ? read(row) : gap;
  });
}

/** The sum of all groups in one period. */
export const totalAt = (drawing: Drawing, index: number): number =>
  drawing.series.reduce((sum, one) => sum + (one.isBefore ? 0 : (one.values[index] ?? 0)), 0);

/** A series for each of these groups, in their order. */
export function groupedSeries(
  axis: Axis,
  rows: Row[],
  groups: string[],
  groupOf: (row: Row) => string,
  member: string,
  gap: number | null,
): Series[] {
  const byGroup = new Map<string, Row[]>(groups.map((group) => [group, []]));
  for (const row of rows) byGroup.get(groupOf(row))?.push(row);
  return groups.map((name, place) => ({
    name,
    shade: shadeOf(place),
    values: valuesOf(axis, byGroup.get(name) ?? [], (row) => numberOf(row[member]), gap),
  }));
}

/** What the series leave over of the totals; undefined: nothing. */
export function remainder(series: Series[], totals: (number | null)[], name: string): Series | undefined {
  const values = totals.map((total, place) => {
    const rest = (total ?? 0) - series.reduce((sum, one) => sum + (one.values[place] ?? 0), 0);
    // What decimal fractions leave behind is nothing.
    return Math.abs(rest) <= 1e-9 * Math.abs(total ?? 0) ? 0 : rest;
  });
  return values.some((value) => value > 0) ? { name, shade: OTHERS, values } : undefined;
}
