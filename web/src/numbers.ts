// How numbers are written: one precision for a column, no digits that nobody reads.

import type { Unit, Value } from "./api/shapes";

const formats = new Map<string, Intl.NumberFormat>();

function written(value: number, options: Intl.NumberFormatOptions): string {
  const key = JSON.stringify(options);
  const format = formats.get(key) ?? new Intl.NumberFormat("en-US", options);
  formats.set(key, format);
  return format.format(value);
}

/** A number of an answer; null where it is not known. */
export const numberOf = (value: unknown): number | null =>
  value === null || value === undefined || value === "" || Number.isNaN(Number(value)) ? null : Number(value);

/** So many digits that the largest of a column says something: cents, or fractions of them. */
export function moneyDigits(values: (number | null)[]): number {
  const most = Math.max(0, ...values.map((value) => Math.abs(value ?? 0)));
  if (most === 0 || most >= 1) return 2;
  return most >= 0.01 ? 4 : 6;
}

export function formatted(value: number | null, unit: Unit, digits?: number): string {
  if (value === null) return "–";
  switch (unit) {
    case "usd": {
      const places = digits ?? moneyDigits([value]);
      return written(value, {
        style: "currency",
        currency: "USD",
        minimumFractionDigits: places,
        maximumFractionDigits: places,
      });
    }
    case "share":
      return written(value, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
    case "ms":
      return `${written(value, { maximumFractionDigits: 0 })}\u00a0ms`;
    default:
      return written(value, { maximumFractionDigits: 0 });
  }
}

/** Short, for axes and large sums: $1.2K, 3.4M, 12.5 s. */
export function compact(value: number, unit: Unit): string {
  if (unit === "share") return written(value, { style: "percent", maximumFractionDigits: 1 });
  if (unit === "ms" && value < 1e4) return `${written(value, { maximumFractionDigits: 0 })}\u00a0ms`;
  if (unit === "ms") return `${written(value / 1000, { maximumFractionDigits: 1 })}\u00a0s`;
  const digits = Math.abs(value) < 1 ? 4 : 1;
  const options: Intl.NumberFormatOptions = {
    notation: "compact",
    minimumFractionDigits: 0,
    maximumFractionDigits: digits,
  };
  return written(value, unit === "usd" ? { ...options, style: "currency", currency: "USD" } : options);
}

/** As a tile shows it: exact as long as it fits. */
export function figure(value: number | null, unit: Unit): string {
  const most = { usd: 1e6, ms: 1e4, share: Number.POSITIVE_INFINITY, requests: 1e8, tokens: 1e8, users: 1e8 }[unit];
  return value !== null && Math.abs(value) >= most ? compact(value, unit) : formatted(value, unit);
}

export interface Difference {
  direction: "up" | "down" | "same";
  text: string;
}

/** The change against the period before: as a share of it, in points for shares. Undefined where there is nothing to compare. */
export function difference(now: number | null, before: number | null, unit: Unit): Difference | undefined {
  if (now === null || before === null || (before === 0 && unit !== "share")) return undefined;
  const change = unit === "share" ? now - before : (now - before) / Math.abs(before);
  const rounded = Math.round(change * 1000) / 1000;
  const direction = rounded === 0 ? "same" : rounded > 0 ? "up" : "down";
  const size = written(Math.abs(rounded) * 100, { maximumFractionDigits: Math.abs(rounded) < 0.1 ? 1 : 0 });
  const sign = { up: "+", down: "−", same: "±" }[direction];
  return { direction, text: `${sign}${size}${unit === "share" ? "\u00a0points" : "\u00a0%"}` };
}

/** "1 request", "7 requests". */
export const counted = (number: number, noun: string): string =>
  `${written(number, {})} ${noun}${number === 1 ? "" : "s"}`;

/** A value as text, whatever it is. */
export const plain = (value: Value | undefined): string =>
  value === null || value === undefined || value === "" ? "none" : String(value);
