// Budgets: what is used, what is left, and where the period will end at the present rate.

import { useAnswer } from "../api/answers";
import type { Budget, Page, Unit, Value } from "../api/shapes";
import { rangeText } from "../days";
import { counted, formatted, numberOf } from "../numbers";
import { Trouble } from "../panels/trouble";

export function Budgets() {
  const found = useAnswer<Page<Budget>>("api/budgets");
  return (
    <section class="card" aria-labelledby="budgets-title" aria-busy={found.isLoading}>
      <header>
        <h2 id="budgets-title" class="unseen">
          All budgets
        </h2>
        <p class="note">The thin line is where the period ends at the present rate.</p>
      </header>
      {found.error ? <Trouble error={found.error} /> : null}
      {found.value && !found.value.items.length && (
        <div class="empty">
          <p>There is no budget yet. Set one:</p>
          <pre>
            <code>usage-pipeline budgets set search --scope team=search --period month --limit 500 --unit usd</code>
          </pre>
        </div>
      )}
      <ul class="budgets">
        {found.value?.items.map((budget) => (
          <One key={budget.name} budget={budget} />
        ))}
      </ul>
    </section>
  );
}

function One({ budget }: { budget: Budget }) {
  const [limit, used] = [numberOf(budget.limit) ?? 0, numberOf(budget.used) ?? 0];
  const forecast = numberOf(budget.forecast);
  // The bar has room for the forecast, and for what is over the limit.
  const whole = Math.max(limit, used, forecast ?? 0) || 1;
  const part = (value: number) => `${(100 * value) / whole}%`;
  const write = (value: Value) => formatted(numberOf(value), budget.unit as Unit);
  const scope =
    Object.entries(budget.scope)
      .map(([name, value]) => `${name} ${value}`)
      .join(", ") || "everything";
  const share = limit > 0 ? formatted(used / limit, "share") : "–";
  const isOver = used > limit;
  const verdict = isOver ? "over the limit" : (forecast ?? 0) > limit ? "will be over the limit" : "within the limit";
  return (
    <li>
      <h3>
        {budget.name}{" "}
        <span class="soft">
          {scope}, by {budget.period}:{" "}
          {rangeText({ from: budget.periodStart.slice(0, 10), to: budget.periodEnd.slice(0, 10) })}
        </span>
      </h3>
      <div class="gauge" aria-hidden="true">
        <span class={`used ${isOver ? "over" : ""}`} style={{ width: part(used) }} />
        <span class="limit" style={{ left: part(limit) }} />
        {forecast !== null && <span class="forecast" style={{ left: part(forecast) }} />}
      </div>
      <p>
        <strong>{write(budget.used)}</strong> of {write(budget.limit)}
        {budget.unit === "usd" ? "" : ` ${budget.unit}`} ({share}), {write(budget.left)} left. Forecast:{" "}
        {write(budget.forecast)}, <span class={verdict === "within the limit" ? "" : "bad"}>{verdict}</span>.
        {budget.unpricedRequests > 0 && ` Not in it: ${counted(budget.unpricedRequests, "request")} without a price.`}
      </p>
    </li>
  );
}
