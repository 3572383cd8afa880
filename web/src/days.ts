// Days as text (2026-11-30), as the service counts them: no time zone of the browser comes in.

import type { Grain, Range } from "./api/shapes";

const DAY_MS = 86_400_000;
const HOUR_MS = 3_600_000;

const parsed = (day: string): Date => new Date(`${day.slice(0, 10)}T00:00:00Z`);
const text = (date: Date): string => date.toISOString().slice(0, 10);

export const addDays = (day: string, days: number): string => text(new Date(parsed(day).getTime() + days * DAY_MS));
export const lengthOf = ({ from, to }: Range): number => Math.round((+parsed(to) - +parsed(from)) / DAY_MS) + 1;
export const isDay = (given: string | null): given is string =>
  given !== null && /^\d{4}-\d\d-\d\d$/.test(given) && !Number.isNaN(+parsed(given)) && text(parsed(given)) === given;

const monthStart = (day: string): string => `${day.slice(0, 7)}-01`;
const mondayOf = (day: string): string => addDays(day, -((parsed(day).getUTCDay() + 6) % 7));
function quarterStart(day: string): string {
  const month = Number(day.slice(5, 7));
  return `${day.slice(0, 5)}${String(month - ((month - 1) % 3)).padStart(2, "0")}-01`;
}
const last = (days: number) => (today: string) => ({ from: addDays(today, 1 - days), to: today });
/** From the start of the calendar's week, month or quarter until today, and the whole of the one before. */
const current = (start: (day: string) => string) => (today: string) => ({ from: start(today), to: today });
const before = (start: (day: string) => string) => (today: string) => {
  const to = addDays(start(today), -1);
  return { from: start(to), to };
};

/** The ranges that have a name. */
export const PRESETS: { name: string; title: string; range: (today: string) => Range }[] = [
  { name: "today", title: "Today", range: last(1) },
  { name: "yesterday", title: "Yesterday", range: (today) => ({ from: addDays(today, -1), to: addDays(today, -1) }) },
  { name: "7", title: "Last 7 days", range: last(7) },
  { name: "30", title: "Last 30 days", range: last(30) },
  { name: "90", title: "Last 90 days", range: last(90) },
  { name: "week", title: "This week", range: current(mondayOf) },
  { name: "last-week", title: "Last week", range: before(mondayOf) },
  { name: "month", title: "This month", range: current(monthStart) },
  { name: "last-month", title: "Last month", range: before(monthStart) },
  { name: "quarter", title: "This quarter", range: current(quarterStart) },
  { name: "last-quarter", title: "Last quarter", range: before(quarterStart) },
];

/** Every period of a range, so that one without usage is a gap and not left out. Hours: from the first to the last known. */
export function periodsOf(range: Range, grain: Grain, known: string[]): string[] {
  if (grain === "hour") return hoursOf(known);
  const first = { week: mondayOf(range.from), month: monthStart(range.from) }[grain as "week" | "month"] ?? range.from;
  const periods = new Set(known);
  // A period that begins before the range may be named by the range's first day.
  for (let day = first; day <= range.to; day = nextPeriod(day, grain)) {
    if (!(day < range.from && periods.has(range.from))) periods.add(day);
  }
  return [...periods].sort();
}

function nextPeriod(day: string, grain: Grain): string {
  if (grain === "month") return monthStart(addDays(monthStart(day), 32));
  return addDays(day, grain === "week" ? 7 : 1);
}

/** The days of a period within the range; undefined of an hour, which is shorter than a day. */
export function daysOf(period: string, grain: Grain, range: Range): Range | undefined {
  if (grain === "hour") return undefined;
  const start = grain === "week" ? mondayOf(period) : period;
  const end = addDays(nextPeriod(start, grain), -1);
  const [isCutBefore, isCutAfter] = [start < range.from, end > range.to];
  return { from: isCutBefore ? range.from : start, to: isCutAfter ? range.to : end };
}

function hoursOf(known: string[]): string[] {
  const byTime = new Map(known.map((period) => [Date.parse(period), period]));
  const times = [...byTime.keys()].sort((one, other) => one - other);
  const hours: string[] = [];
  for (let at = times[0] ?? Number.POSITIVE_INFINITY; at <= (times.at(-1) ?? 0); at += HOUR_MS) {
    hours.push(byTime.get(at) ?? new Date(at).toISOString());
  }
  return hours;
}

const written = (options: Intl.DateTimeFormatOptions, timeZone = "UTC") =>
  new Intl.DateTimeFormat("en-GB", { timeZone, ...options });

/** A period in a word or two, for an axis. */
export function shortPeriod(period: string, grain: Grain, timeZone: string): string {
  if (grain === "hour") {
    const hour = written({ hour: "2-digit", minute: "2-digit" }, timeZone).format(new Date(period));
    return hour === "00:00" ? written({ day: "numeric", month: "short" }, timeZone).format(new Date(period)) : hour;
  }
  return written(grain === "month" ? { month: "short", year: "numeric" } : { day: "numeric", month: "short" }).format(
    parsed(period),
  );
}

/** A period in full, for a tooltip and a table. */
export function longPeriod(period: string, grain: Grain, timeZone: string): string {
  const day: Intl.DateTimeFormatOptions = { weekday: "short", day: "numeric", month: "short", year: "numeric" };
  if (grain === "hour")
    return written({ ...day, hour: "2-digit", minute: "2-digit" }, timeZone).format(new Date(period));
  if (grain === "month") return written({ month: "long", year: "numeric" }).format(parsed(period));
  return `${grain === "week" ? "Week of " : ""}${written(day).format(parsed(period))}`;
}

export function rangeText({ from, to }: Range): string {
  const format = written({ day: "numeric", month: "short", year: "numeric" });
  return from === to ? format.format(parsed(from)) : format.formatRange(parsed(from), parsed(to));
}

export const momentText = (moment: string, timeZone: string): string =>
  written(
    { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" },
    timeZone,
  ).format(new Date(moment));

/** "14:10", or with its day where that is not today. */
export function clockText(moment: string, timeZone: string, today: string): string {
  const at = new Date(moment);
  const day = written({ year: "numeric", month: "2-digit", day: "2-digit" }, timeZone).format(at);
  const isToday = day.split("/").reverse().join("-") === today;
  const clock: Intl.DateTimeFormatOptions = { hour: "2-digit", minute: "2-digit" };
  return written(isToday ? clock : { day: "numeric", month: "short", ...clock }, timeZone).format(at);
}
