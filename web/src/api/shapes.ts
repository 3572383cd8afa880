// What the API answers (docs/http.md). Money is decimal text, so that nothing is lost on the way.

export type Unit = "usd" | "requests" | "tokens" | "ms" | "share" | "users";
export type Grain = "hour" | "day" | "week" | "month" | "total";
export type Money = string | null;
export type Value = string | number | null;

export interface Dimension {
  name: string;
  /** Its name in a row. */
  member: string;
  title: string;
  isAllowed: boolean;
  /** Whether there is usage without a value, which an empty filter finds. */
  canBeNone: boolean;
}

export interface Metric {
  name: string;
  member: string;
  title: string;
  unit: Unit;
  description: string;
}

export interface Combination {
  /** By name; `tag:*` is one tag, whichever. */
  dimensions: string[];
  grains: Grain[];
  metrics: string[];
}

export interface Dimensions {
  dimensions: Dimension[];
  metrics: Metric[];
  combinations: Combination[];
  firstDay: string | null;
  lastDay: string | null;
  today: string;
  timezone: string;
  asOf: string | null;
}

/** A period, groupings and metrics, each by its member's name. */
export interface Row {
  period?: string;
  previous?: Record<string, Value> | null;
  [member: string]: Value | Record<string, Value> | undefined;
}

export interface Range {
  from: string;
  to: string;
}

export interface Explored {
  asOf: string | null;
  timezone: string;
  rows: number;
  previous?: Range;
  items: Row[];
  next: string | null;
}

export interface Page<Item> {
  items: Item[];
  next: string | null;
}

export type UsageRequest = Record<string, Value | Record<string, string>>;

export interface Change {
  previousCostUsd: Money;
  costUsd: Money;
  changeUsd: Money;
  parts: Record<string, Money>;
  /** Requests that are in neither cost. */
  previousUnpricedRequests: number;
  unpricedRequests: number;
  [grouping: string]: Money | number | Record<string, Money>;
}

export interface Changes {
  previous?: Range;
  items: Change[];
  total: Change;
}

export interface Session {
  name: string;
  scopes: string[];
  bounds: Record<string, string[]>;
  expiresAt: string | null;
  signedInBy: "cookie" | "proxy" | "token";
}

export interface Budget {
  name: string;
  scope: Record<string, string>;
  period: "day" | "week" | "month";
  unit: "usd" | "tokens" | "requests";
  limit: Value;
  used: Value;
  left: Value;
  /** Null: too little of the period has passed. */
  forecast: Value;
  share: Value;
  unpricedRequests: number;
  periodStart: string;
  periodEnd: string;
  alertShares: number[];
}

export interface IssueDay {
  date: string;
  createdCount: number;
  resolvedCount: number;
  commentCount: number;
}

export interface PopularIssue {
  rank: number;
  id: string;
  title: string;
  score: number;
  createdAt: string;
  viewCount: number;
  commentCount: number;
}

export interface Health {
  database: "up" | "down";
  redis: "up" | "down";
  scheduler: "up" | "down" | "off";
}
