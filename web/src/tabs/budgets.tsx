// Budgets: what is used, what is left, and where the period will end at the present rate.

import { useAnswer } from "../api/answers";
import type { Budget, Page, Unit, Value } from "../api/shapes";
import { rangeText } from "../days";
import { formatted, numberOf } from "../numbers";
import { Trouble } from "../panels/trouble";

export function Budgets() {
  const found = useAnswer<Page<Budget>>("api/budgets");
  return (
    <section class="card" aria-labelledby="budgets-title" aria-busy={found.isLoading}>
      <header>
        <h2 id="budgets-title">Budgets</h2>
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
  const [limit, used, forecast] = [budget.limit, budget.used, budget.forecast].map((value) => numberOf(value) ?? 0) as [
    number,
    number,
    number,
  ];
  // The bar has room for the forecast, and for what is over the limit.
  const whole = Math.max(limit, used, forecast) || 1;
  const part = (value: number) => `${(100 * value) / whole}%`;
  const write = (value: Value) => formatted(numberOf(value), budget.unit as Unit);
  const scope =
    Object.entries(budget.scope)
      .map(([name, value]) => `${name} ${value}`)
      .join(", ") || "everything";
  const share = limit > 0 ? formatted(used / limit, "share") : "–";
  const isOver = used > limit;
  const verdict = isOver ? "over the limit" : forecast > limit ? "will be over the limit" : "within the limit";
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
        <span class="forecast" style={{ left: part(forecast) }} />
      </div>
      <p>
        <strong>{write(budget.used)}</strong> of {write(budget.limit)} ({share}), {write(budget.left)} left. Forecast:{" "}
        {write(budget.forecast)}, <span class={verdict === "within the limit" ? "" : "bad"}>{verdict}</span>.
      </p>
    </li>
  );
}
