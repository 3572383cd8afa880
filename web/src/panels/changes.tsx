// "Why did it change?": the cost of two periods, and the six parts that their difference is made of.

import { useAnswer } from "../api/answers";
import { appendFilters } from "../api/explore";
import type { Change, Changes as Found, Money } from "../api/shapes";
import { rangeText } from "../days";
import { difference, formatted, moneyDigits, numberOf, plain } from "../numbers";
import { choose } from "../state";
import { useWorkspace } from "../workspace";
import { Scroll } from "./scroll";
import { Trouble } from "./trouble";

// Nothing wherever the cost of all requests is known: then it is not shown.
const COVERAGE = "coverageUsd";
const PARTS = [
  { member: "volumeUsd", title: "Volume", hint: "more or fewer requests" },
  { member: "mixUsd", title: "Models", hint: "dearer or cheaper models than before" },
  { member: "tokensPerRequestUsd", title: "Tokens per request", hint: "longer or shorter prompts and answers" },
  { member: "cacheUsd", title: "Cache", hint: "more or less input read from a cache" },
  { member: "priceUsd", title: "Price", hint: "other prices for the same tokens" },
  { member: COVERAGE, title: "Known cost", hint: "requests whose cost became known or unknown" },
];
const SPLITS = ["team", "service", "provider"];

const partsOf = (changes: Change[]) =>
  PARTS.filter(({ member }) => member !== COVERAGE || changes.some((one) => numberOf(one.parts[member])));

export function Changes() {
  const { view, catalogue, change } = useWorkspace();
  const parts = new URLSearchParams({ from: view.from, to: view.to, by: view.changesBy });
  parts.set("compare", view.compare === "month_before" ? "month_before" : "previous");
  appendFilters(parts, view.filters);
  const found = useAnswer<Found>(`api/usage/changes?${parts}`);
  return (
    <section class={`card ${found.value ? "" : "waits"}`} aria-labelledby="changes-title" aria-busy={found.isLoading}>
      <header>
        <h2 id="changes-title">Why did it change?</h2>
        <p class="note">{found.value?.previous && `Against ${rangeText(found.value.previous)}.`}</p>
        <div class="actions">
          <label>
            By{" "}
            <select value={view.changesBy} onChange={(event) => change({ changesBy: event.currentTarget.value })}>
              {SPLITS.map((name) => (
                <option key={name} value={name}>
                  {catalogue.titleOf(name)}
                </option>
              ))}
            </select>
          </label>
        </div>
      </header>
      {found.error ? <Trouble error={found.error} /> : null}
      {found.value && <Shown found={found.value} />}
    </section>
  );
}

function Shown({ found }: { found: Found }) {
  const { total } = found;
  const change = numberOf(total.changeUsd);
  if (change === null) return <p class="empty">Nothing to compare: no cost is known in the two periods.</p>;
  const parts = partsOf([total, ...found.items]);
  const share = difference(numberOf(total.costUsd), numberOf(total.previousCostUsd), "usd");
  const [now, before] = [numberOf(total.costUsd), numberOf(total.previousCostUsd)];
  const digits = moneyDigits([now, before]);
  const verb = change > 0 ? "rose" : change < 0 ? "fell" : "stayed the same";
  return (
    <>
      <p class="lead">
        Cost {verb}
        {change !== 0 && ` by ${formatted(Math.abs(change), "usd", digits)}`}
        {share && ` (${share.text})`}, from {costText(before, digits)} to {costText(now, digits)}.
      </p>
      {Boolean(total.previousUnpricedRequests || total.unpricedRequests) && (
        <p class="note">
          Without requests whose cost is not known: {formatted(total.previousUnpricedRequests, "requests")} before,{" "}
          {formatted(total.unpricedRequests, "requests")} now.
        </p>
      )}
      <div class="changes">
        <Bars shown={parts} parts={total.parts} />
        {found.items.length > 0 && <Split shown={parts} items={found.items} />}
      </div>
    </>
  );
}

const costText = (value: number | null, digits: number): string =>
  value === null ? "an unknown cost" : formatted(value, "usd", digits);

function Bars({ shown, parts }: { shown: typeof PARTS; parts: Record<string, Money> }) {
  const values = shown.map(({ member }) => numberOf(parts[member]) ?? 0);
  const most = Math.max(...values.map(Math.abs), Number.MIN_VALUE);
  const digits = moneyDigits(values);
  return (
    <dl class="bars">
      {shown.map(({ member, title, hint }, place) => {
        const value = values[place] ?? 0;
        const width = (50 * Math.abs(value)) / most;
        return (
          <div key={member}>
            <dt>
              {title} <span class="soft">{hint}</span>
            </dt>
            <dd>
              <span class="track" aria-hidden="true">
                <span
                  class={value < 0 ? "less" : "more-cost"}
                  style={{ width: `${width}%`, left: `${value < 0 ? 50 - width : 50}%` }}
                />
              </span>
              <span class="number">{signed(value, digits)}</span>
            </dd>
          </div>
        );
      })}
    </dl>
  );
}

const signed = (value: number | null, digits: number): string =>
  value === null ? "–" : `${value > 0 ? "+" : value < 0 ? "−" : ""}${formatted(Math.abs(value), "usd", digits)}`;

function Split({ shown, items }: { shown: typeof PARTS; items: Change[] }) {
  const { view, catalogue, change } = useWorkspace();
  const digits = moneyDigits(items.map((one) => numberOf(one.changeUsd)));
  return (
    <Scroll label="Changes of each">
      <table>
        <thead>
          <tr>
            <th scope="col">{catalogue.titleOf(view.changesBy)}</th>
            <th scope="col" class="number">
              Change
            </th>
            {shown.map(({ title, hint }) => (
              <th key={title} scope="col" class="number" title={hint}>
                {title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {items.map((one) => {
            const name = plain(one[view.changesBy] as string | null);
            return (
              <tr key={name}>
                <th scope="row">
                  <button
                    type="button"
                    class="value"
                    title={`Show only ${name}`}
                    onClick={() => change(choose(view, [{ name: view.changesBy, value: name }]))}
                  >
                    {name}
                  </button>
                </th>
                <td class="number">{signed(numberOf(one.changeUsd), digits)}</td>
                {shown.map((part) => (
                  <td key={part.member} class="number soft">
                    {signed(numberOf(one.parts[part.member]), digits)}
                  </td>
                ))}
              </tr>
            );
          })}
        </tbody>
      </table>
    </Scroll>
  );
}
