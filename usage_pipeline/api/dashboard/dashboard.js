// The dashboard: asks for a token, reads the API with it, and draws what it answers. It writes nothing, and loads nothing else.

import { bars, compact, count, element, empty, meter, money, shortDay, table } from "./charts.js";

const TOKEN = "usage_pipeline.token";
const MOST_PAGES = 20;
const find = (id) => document.getElementById(id);

class Refused extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function ask(path) {
  let response;
  try {
    response = await fetch(path, { headers: { Authorization: `Bearer ${sessionStorage.getItem(TOKEN)}`, Accept: "application/json" } });
  } catch {
    throw new Refused(0, "The service cannot be reached.");
  }
  const left = response.headers.get("RateLimit-Remaining");
  find("quota").textContent = left === null ? "" : `${count(Number(left))} of ${count(Number(response.headers.get("RateLimit-Limit")))} requests left today.`;
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Refused(response.status, problem.detail ?? response.statusText, response.headers.get("Retry-After"));
  }
  return response.json();
}

async function allPages(path, query) {
  const items = [];
  for (let page = 0; query !== null && page < MOST_PAGES; page += 1) {
    const answer = await ask(path + query);
    items.push(...answer.items);
    // Its path is that of the service, which a proxy may serve under a prefix.
    query = answer.next && new URL(answer.next, location.href).search;
  }
  return items;
}

function told(error) {
  const wait = error.retryAfter ? ` Try again in ${waitText(Number(error.retryAfter))}.` : "";
  const reasons = {
    0: "The service cannot be reached. Is it running?",
    401: "This token is unknown, expired or revoked. Enter another one.",
    403: `This token may not read: ${error.message}.`,
    429: `This token has used up its quota for today.${wait}`,
    503: `The service runs, but cannot answer now: ${error.message}.${wait}`,
  };
  return reasons[error.status] ?? `The service answered ${error.status}: ${error.message}.`;
}

function waitText(seconds) {
  if (seconds < 90) return `${seconds} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} minutes` : `${Math.round(seconds / 3600)} hours`;
}

function notice(text) {
  find("notice").textContent = text;
  find("notice").hidden = !text;
}

async function showHealth() {
  const line = find("health");
  try {
    const health = await (await fetch("healthz")).json();
    const down = ["database", "redis"].filter((part) => health[part] !== "up");
    if (health.scheduler === "down") down.push("scheduler");
    line.dataset.state = down.length ? "down" : "ok";
    line.textContent = down.length ? `Down: ${down.join(", ")}` : "Database and Redis are up";
  } catch {
    line.dataset.state = "down";
    line.textContent = "The service does not answer";
  }
}

const COSTS = ["costUsd", "listCostUsd", "reportedCostUsd"];
const requestCount = (number) => `${compact(number)} ${number === 1 ? "request" : "requests"}`;
// Null where it is known of no row.
const known = (rows, name) => (rows.some((row) => row[name] !== null) ? sum(rows, name) : null);
const sum = (rows, name) => rows.reduce((total, row) => total + Number(row[name] ?? 0), 0);

// The service keeps from a bound token what it cannot tell apart by team.
const isBound = (days) => days[0].apiKeyRequests === null;

function showTiles(days) {
  const requests = sum(days, "apiKeyRequests");
  const failed = sum(days, "failedApiKeyRequests");
  const errors = sum(days, "modelErrors");
  const models = sum(days, "modelRequests");
  const costs = Object.fromEntries(COSTS.map((name) => [name, known(days, name)]));
  const [unpriced, unlisted, reported] = ["unpricedRequests", "unlistedRequests", "reportedRequests"].map((name) => sum(days, name));
  const shown = (name) => (costs[name] === null ? "–" : money(costs[name]));
  const share = (part, of) => (of ? `${((100 * part) / of).toFixed(1)} % failed` : "no requests yet");
  const ofAll = [
    ["API key requests", compact(requests), share(failed, requests)],
    ["Files uploaded", compact(sum(days, "filesUploaded")), "with API keys"],
    ["API token requests", compact(sum(days, "tokenRequests")), "with access tokens, also to this service"],
  ];
  const tiles = [
    ...(isBound(days) ? [] : ofAll),
    ["LLM requests", compact(models), share(errors, models)],
    ["LLM tokens", compact(sum(days, "totalTokens")), "input and output tokens together"],
    ["LLM cost", shown("costUsd"), unpriced ? `not in it: ${requestCount(unpriced)} without a price` : "what was charged, or else the list price"],
    ["LLM list price", shown("listCostUsd"), unlisted ? `not in it: ${requestCount(unlisted)} without a list price` : "of all requests"],
    ["LLM cost reported", shown("reportedCostUsd"), reported ? `by senders, for ${requestCount(reported)}` : "no sender said what it was charged"],
  ];
  find("tiles").replaceChildren(
    ...tiles.map(([name, figure, aside]) =>
      element("div", { class: "tile" }, element("dt", {}, name), element("dd", { class: "figure" }, figure), element("dd", { class: "aside" }, aside)),
    ),
  );
}

function showRequests(days) {
  const [keys, models] = ["apiKeyRequests", "modelRequests"].map((name) => days.map((day) => day[name]));
  const ofModels = { name: "LLM models", shade: "b", values: models };
  const series = isBound(days) ? [ofModels] : [{ name: "API keys", shade: "a", values: keys }, ofModels];
  const isEmpty = series.every((one) => one.values.every((value) => value === 0));
  const dates = days.map((day) => day.usageDate);
  find("requests").replaceChildren(...(isEmpty ? [empty("No requests on these days. New requests usually appear here within an hour.")] : bars(dates, series, "Requests per day")));
}

function showModels(rows) {
  const models = new Map();
  for (const row of rows) {
    const name = `${row.provider}/${row.model}`;
    models.set(name, [...(models.get(name) ?? []), row]);
  }
  const all = [...models.values()].map((days) => ({
    provider: days[0].provider,
    model: days[0].model,
    requests: sum(days, "requests"),
    tokens: sum(days, "totalTokens"),
    costs: COSTS.map((name) => known(days, name)),
    units: unitsOf(days),
  }));
  const best = all.sort((one, other) => other.tokens - one.tokens || (one.model < other.model ? -1 : 1)).slice(0, 8);
  if (!best.length) return find("models").replaceChildren(empty("No LLM requests on these days."));
  const most = Math.max(1, best[0].tokens);
  const lines = best.map((one) => [
    [one.model, element("span", { class: "sub" }, [one.provider, ...one.units].join(" · ")), meter(one.tokens / most)],
    compact(one.requests),
    compact(one.tokens),
    ...one.costs.map((cost, place) => (cost === null && place === 2 ? "–" : money(cost))),
  ]);
  const columns = [{ name: "Model" }, ...["Requests", "Tokens", "Cost", "List price", "Reported"].map((name) => ({ name, isNumber: true }))];
  return find("models").replaceChildren(table(columns, lines, "Models by tokens and cost"));
}

// Units that are no tokens of a usual kind, such as `web_searches`.
function unitsOf(rows) {
  const counts = new Map();
  for (const row of rows) {
    for (const [name, number] of Object.entries(row.otherUnits)) counts.set(name, (counts.get(name) ?? 0) + number);
  }
  return [...counts].sort().map(([name, number]) => `${compact(number)} ${name.replaceAll("_", " ")}`);
}

function showPopular(issues) {
  if (!issues.length) return find("popular").replaceChildren(empty("No issue was created in the last seven days."));
  const lines = issues.map((one) => [
    String(one.rank),
    [one.title, element("span", { class: "sub" }, `${one.id} · ${shortDay(one.createdAt.slice(0, 10))} · ${count(one.viewCount)} views, ${count(one.commentCount)} comments`)],
    count(one.score),
  ]);
  const columns = [{ name: "#" }, { name: "Issue" }, { name: "Score", isNumber: true }];
  return find("popular").replaceChildren(table(columns, lines, "Popular issues"));
}

function showFlow(counted, days) {
  if (!counted.length) return find("flow").replaceChildren(empty("No issues are counted for these days yet. Each day is counted in the night after it."));
  const byDay = new Map(counted.map((row) => [row.date, row]));
  const values = (name) => days.map((day) => byDay.get(day.usageDate)?.[name] ?? 0);
  const series = [
    { name: "created", shade: "a", values: values("createdCount") },
    { name: "resolved", shade: "c", values: values("resolvedCount") },
  ];
  return find("flow").replaceChildren(...bars(days.map((day) => day.usageDate), series, "Issues created and resolved per day"));
}

async function showAll() {
  find("refresh").disabled = true;
  notice("");
  void showHealth();
  try {
    const days = await ask("api/usage/summary");
    find("gate").hidden = true;
    find("board").hidden = false;
    find("sign-out").hidden = false;
    const [first, last] = [days[0].usageDate, days.at(-1).usageDate];
    find("range").textContent = `${shortDay(first)} – ${shortDay(last)}`;
    find("bound").hidden = !isBound(days);
    for (const part of document.querySelectorAll(".of-all")) part.hidden = isBound(days);
    showTiles(days);
    showRequests(days);
    // Each part for itself: one that fails leaves the others.
    const range = `from=${first}&to=${last}`;
    const parts = [
      ["models", allPages("api/usage/models/daily", `?${range}&limit=1000`).then(showModels)],
    ];
    if (!isBound(days)) {
      parts.push(["popular", ask("api/issues/popular").then(showPopular)]);
      parts.push(["flow", ask(`api/stats/daily?${range}`).then((counted) => showFlow(counted, days))]);
    }
    const outcomes = await Promise.allSettled(parts.map(([, part]) => part));
    outcomes.forEach((outcome, place) => {
      if (outcome.status === "rejected") find(parts[place][0]).replaceChildren(empty(told(outcome.reason)));
    });
    find("updated").textContent = `As of ${new Date().toLocaleTimeString("en-GB")}.`;
  } catch (error) {
    if (error.status === 401 || error.status === 403) forget();
    notice(error instanceof Refused ? told(error) : String(error));
  } finally {
    find("refresh").disabled = false;
  }
}

function forget() {
  sessionStorage.removeItem(TOKEN);
  find("board").hidden = true;
  find("sign-out").hidden = true;
  find("gate").hidden = false;
  notice("");
  find("token").focus();
}

find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = find("token").value.trim();
  find("token").value = "";
  // Header values are ASCII: anything else is no token, and fetch would fail on it in words of its own.
  if (!/^[\x21-\x7e]+$/.test(token)) return notice("This is not a token. A token begins with upt_ and has no spaces.");
  sessionStorage.setItem(TOKEN, token);
  return void showAll();
});
find("sign-out").addEventListener("click", forget);
find("refresh").addEventListener("click", () => void showAll());

if (sessionStorage.getItem(TOKEN)) void showAll();
else {
  void showHealth();
  find("token").focus();
}
