// Asks the service, with the session's cookie or with a token that only this tab keeps. Addresses are relative: a proxy may
// serve the page under a prefix.

const TOKEN = "usage_pipeline.token";

/** An answer that is none: the status (0: no answer), and the problem document's own words. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    detail: string,
    readonly retryAfter: number | null = null,
  ) {
    super(detail);
  }
}

const kept = new Map<string, Promise<unknown>>();
let asking = new AbortController();
let quota = "";

export const keptToken = (): string | null => sessionStorage.getItem(TOKEN);
export const keepToken = (token: string): void => sessionStorage.setItem(TOKEN, token);
export const forgetToken = (): void => sessionStorage.removeItem(TOKEN);
/** The next questions are asked anew. */
export const forgetAnswers = (): void => kept.clear();
/** Whoever signs out wants no answer any more: what is still asked would be refused. */
export function stopAsking(): void {
  waiting.length = 0;
  asking.abort();
  asking = new AbortController();
  forgetAnswers();
}
export const quotaLeft = (): string => quota;

/** The JSON of an answer. The same question is asked once until the answers are forgotten. */
export function ask<Answer>(path: string, isUrgent = false): Promise<Answer> {
  const before = kept.get(path);
  if (before) return before as Promise<Answer>;
  const answer = inTurn(async () => (await sendUntilThereIsRoom(path)).json(), isUrgent);
  kept.set(path, answer);
  answer.catch(() => kept.delete(path));
  return answer;
}

/** An answer with a good status. Raises Refusal. */
export async function send(path: string, options: RequestInit = {}): Promise<Response> {
  const token = keptToken();
  const headers = new Headers({
    Accept: "application/json, */*;q=0.1",
    ...(options.headers as Record<string, string>),
  });
  if (token) headers.set("Authorization", `Bearer ${token}`);
  const response = await fetch(path, { ...options, headers }).catch(() => {
    throw new Refusal(0, "no-answer", "");
  });
  noteQuota(response.headers);
  if (!response.ok) throw await refusalOf(response);
  return response;
}

// A token gets half of the free places of a process; others may use it, too. So the page asks two things at a time, and again
// when the service says that it has no room.
const AT_ONCE = 2;
const MOST_TRIES = 5;
const waiting: (() => Promise<void>)[] = [];
let running = 0;

function inTurn<Answer>(question: () => Promise<Answer>, isUrgent: boolean): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const run = () => question().then(resolve, reject);
    if (isUrgent) waiting.unshift(run);
    else waiting.push(run);
    startNext();
  });
}

function startNext(): void {
  const next = running < AT_ONCE && waiting.shift();
  if (!next) return;
  running += 1;
  void next().finally(() => {
    running -= 1;
    startNext();
  });
}

async function sendUntilThereIsRoom(path: string): Promise<Response> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await send(path, { signal: asking.signal });
    } catch (error) {
      const isFull = error instanceof Refusal && error.status === 503 && error.retryAfter !== null;
      if (!isFull || tries === MOST_TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter ?? 1)));
    }
  }
}

/** Where the next page is, seen from this page: the service does not know a proxy's prefix. */
export const pathOfNext = (next: string): string => next.replace(/^\//, "");

async function refusalOf(response: Response): Promise<Refusal> {
  const problem = await response.json().catch(() => ({}));
  const kind = String(problem.type ?? "").replace(/^.*[:/]/, "");
  const wait = Number(response.headers.get("Retry-After")) || null;
  return new Refusal(response.status, kind, String(problem.detail ?? response.statusText), wait);
}

function noteQuota(headers: Headers): void {
  const [left, limit] = ["RateLimit-Remaining", "RateLimit-Limit"].map((name) => headers.get(name));
  if (left && limit)
    quota = `${Number(left).toLocaleString("en")} of ${Number(limit).toLocaleString("en")} requests left today`;
}

/** What happened and what to do, as a sentence. */
export function told(error: unknown): string {
  if (!(error instanceof Refusal)) return `The page has a fault: ${String(error)}. Load it again.`;
  const wait = error.retryAfter ? ` Try again in ${waitText(error.retryAfter)}.` : "";
  const detail = error.message.replace(/\.$/, "");
  switch (error.status) {
    case 0:
      return "The service does not answer. Check that it runs, then refresh.";
    case 401:
      return "This token is unknown, expired or revoked. Sign in with another one.";
    case 403:
      return `You may not see this: ${detail}.`;
    case 422:
      return `${detail.charAt(0).toUpperCase()}${detail.slice(1)}.`;
    case 429:
      return `Your quota for today is used up.${wait}`;
    case 503:
      return `The service runs, but cannot answer now: ${detail}.${wait}`;
    default:
      return `The service answered ${error.status}: ${detail}. Refresh; if it stays, ask who runs the service.`;
  }
}

function waitText(seconds: number): string {
  if (seconds < 90) return `${seconds} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} minutes` : `${Math.round(seconds / 3600)} hours`;
}
