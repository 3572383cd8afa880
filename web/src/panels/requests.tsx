// Single requests of the view, the newest first, and all that is known of one.

import { useEffect, useRef, useState } from "preact/hooks";
import { usePages } from "../api/answers";
import { appendFilters } from "../api/explore";
import type { Page, UsageRequest, Value } from "../api/shapes";
import { momentText, rangeText } from "../days";
import { formatted, moneyDigits, numberOf, plain } from "../numbers";
import type { Outcome } from "../state";
import { useWorkspace } from "../workspace";
import { Scroll } from "./scroll";
import { Trouble } from "./trouble";

const PAGE = 50;
const OUTCOMES: { name: Outcome; title: string }[] = [
  { name: "all", title: "All" },
  { name: "error", title: "Failed" },
  { name: "ok", title: "Succeeded" },
];

interface Found extends Page<UsageRequest> {
  /** Of these days, some or all requests are no longer in the database. */
  archivedDays: string[];
}

export function Requests() {
  const { view, catalogue, change } = useWorkspace();
  const card = useRef<HTMLElement>(null);
  const [shown, show] = useState<UsageRequest | null>(null);
  const isOpen = view.requests !== "";
  const found = usePages<UsageRequest, Found>(isOpen ? pathOf(view) : null);
  useEffect(() => {
    if (isOpen) card.current?.scrollIntoView({ block: "start" });
  }, [isOpen, view.errorType, view.filters]);
  return (
    <section class="card" ref={card} aria-labelledby="requests-title" aria-busy={found.isLoading}>
      <header>
        <h2 id="requests-title">Single requests</h2>
        <p class="note">{isOpen ? "The newest first." : "What the numbers are made of."}</p>
        <div class="actions">
          {isOpen && (
            // biome-ignore lint/a11y/useSemanticElements: a fieldset cannot be laid out in a line
            <span class="choice" role="group" aria-label="Outcome">
              {OUTCOMES.map(({ name, title }) => (
                <button
                  key={name}
                  type="button"
                  class="quiet"
                  aria-pressed={view.requests === name}
                  onClick={() => change({ requests: name, errorType: name === "error" ? view.errorType : "" })}
                >
                  {title}
                </button>
              ))}
            </span>
          )}
          <button
            type="button"
            class="quiet"
            aria-expanded={isOpen}
            onClick={() => change({ requests: isOpen ? "" : "all", errorType: "" })}
          >
            {isOpen ? "Close" : "Show requests"}
          </button>
        </div>
      </header>
      {isOpen && view.errorType && (
        <p class="chips">
          <button type="button" class="chip" onClick={() => change({ errorType: "" })}>
            Error type: {view.errorType} <span aria-hidden="true">×</span>
            <span class="unseen">, remove</span>
          </button>
        </p>
      )}
      {found.error ? <Trouble error={found.error} /> : null}
      {isOpen && found.value && !found.items.length && found.more && (
        <p class="empty">None among the newest. The service looks for two seconds at a time.</p>
      )}
      {isOpen && found.value && !found.items.length && !found.more && <p class="empty">No single request matches.</p>}
      {isOpen && found.value && found.value.archivedDays.length > 0 && (
        <p class="note">{archivedText(found.value.archivedDays)}</p>
      )}
      {isOpen && found.items.length > 0 && (
        <List items={found.items} show={show} timezone={catalogue.document.timezone} />
      )}
      {isOpen && found.more && (
        <button type="button" class="more" onClick={found.more}>
          {found.items.length ? `Show ${PAGE} more` : "Look further back"}
        </button>
      )}
      {found.moreError ? <Trouble error={found.moreError} /> : null}
      {shown && <Details request={shown} close={() => show(null)} timezone={catalogue.document.timezone} />}
    </section>
  );
}

function archivedText(days: string[]): string {
  const range = rangeText({ from: days[0] as string, to: days.at(-1) as string });
  const which = days.length === 1 ? `Of ${range}` : `Of ${days.length} days with usage (${range})`;
  return `${which}, some or all single requests are no longer in the database: they are kept for a shorter time than their sums.`;
}

function pathOf(view: ReturnType<typeof useWorkspace>["view"]): string {
  const parts = new URLSearchParams({ from: view.from, to: view.to, limit: String(PAGE) });
  appendFilters(parts, view.filters);
  if (view.requests !== "all") parts.set("filter.outcome", view.requests);
  if (view.errorType) parts.set("filter.error_type", view.errorType);
  return `api/usage/requests?${parts}`;
}

interface ListProps {
  items: UsageRequest[];
  show: (request: UsageRequest) => void;
  timezone: string;
}

const text = (request: UsageRequest, member: string): string => plain(request[member] as Value);

function List({ items, show, timezone }: ListProps) {
  const digits = moneyDigits(items.map((one) => numberOf(one.costUsd)));
  const hasUsers = items.some((one) => "user" in one);
  return (
    <Scroll label="Single requests">
      <table>
        <thead>
          <tr>
            <th scope="col">Time</th>
            <th scope="col">Team</th>
            <th scope="col">Service</th>
            {hasUsers && <th scope="col">User</th>}
            <th scope="col">Model</th>
            <th scope="col" class="number">
              Tokens
            </th>
            <th scope="col" class="number">
              Cost
            </th>
            <th scope="col" class="number">
              Latency
            </th>
            <th scope="col">Outcome</th>
            <th scope="col">
              <span class="unseen">All members</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {items.map((one, place) => (
            <tr key={String(one.eventId ?? place)}>
              <th scope="row">{momentText(String(one.eventTime), timezone)}</th>
              <td>{text(one, "team")}</td>
              <td>{text(one, "service")}</td>
              {hasUsers && <td>{text(one, "user")}</td>}
              <td>
                {text(one, "model")} <span class="soft">{text(one, "provider")}</span>
              </td>
              <td class="number">{formatted(numberOf(one.totalTokens), "tokens")}</td>
              <td class="number">
                {one.costUsd === null ? "no price" : formatted(numberOf(one.costUsd), "usd", digits)}
              </td>
              <td class="number">{formatted(numberOf(one.latencyMs), "ms")}</td>
              <td>{outcomeOf(one)}</td>
              <td>
                <button type="button" class="quiet" onClick={() => show(one)}>
                  Details<span class="unseen"> of the request at {momentText(String(one.eventTime), timezone)}</span>
                </button>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function outcomeOf(request: UsageRequest) {
  const status = request.statusCode === null || request.statusCode === undefined ? "" : String(request.statusCode);
  const words = [status, request.errorType].filter(Boolean).join(" ");
  const isError = Boolean(request.errorType) || Number(status) >= 400;
  return isError ? <span class="bad">✕ {words}</span> : words || "ok";
}

function Details({ request, close, timezone }: { request: UsageRequest; close: () => void; timezone: string }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} aria-labelledby="request-title" onClose={close}>
      <header>
        <h2 id="request-title">Request of {momentText(String(request.eventTime), timezone)}</h2>
        <button type="button" class="quiet" onClick={() => dialog.current?.close()}>
          Close
        </button>
      </header>
      <dl class="members">
        {Object.entries(request).map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value !== null && typeof value === "object" ? JSON.stringify(value, null, 1) : plain(value)}</dd>
          </div>
        ))}
      </dl>
    </dialog>
  );
}
