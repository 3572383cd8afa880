// A chart as the page has it: a card with a title, a legend, and the same numbers as a table.

import type { ComponentChildren } from "preact";
import { useId, useState } from "preact/hooks";
import type { Range } from "../api/shapes";
import { rangeText } from "../days";
import { formatted, moneyDigits, numberOf } from "../numbers";
import { Scroll } from "../panels/scroll";
import { Trouble } from "../panels/trouble";
import { useWorkspace } from "../workspace";
import { Plot } from "./plot";
import { type Drawing, type Series, totalAt } from "./series";

interface FigureProps {
  title: string;
  note?: ComponentChildren;
  actions?: ComponentChildren;
  drawing: Drawing | undefined;
  error?: unknown;
  isLoading: boolean;
  /** What to say where there is nothing to draw. */
  empty: ComponentChildren;
  isLarge?: boolean;
}

export function Figure({ title, note, actions, drawing, error, isLoading, empty, isLarge }: FigureProps) {
  const id = useId();
  const [isTable, setTable] = useState(false);
  const isEmpty = drawing && !drawing.series.some((one) => one.values.some((value) => value));
  const canDraw = drawing && !isEmpty && !error;
  return (
    <section class={`card figure ${isLarge ? "large" : ""}`} aria-labelledby={id} aria-busy={isLoading}>
      <header>
        <h2 id={id}>{title}</h2>
        {note && <p class="note">{note}</p>}
        <div class="actions">
          {actions}
          {canDraw && (
            <button type="button" class="quiet" aria-pressed={isTable} onClick={() => setTable(!isTable)}>
              {isTable ? "Show as chart" : "Show as table"}
              <span class="unseen">: {title}</span>
            </button>
          )}
        </div>
      </header>
      <div class="drawing">
        {error ? <Trouble error={error} /> : isEmpty ? <div class="empty">{empty}</div> : null}
        {canDraw && (isTable ? <Numbers drawing={drawing} title={title} /> : <Plot drawing={drawing} name={title} />)}
      </div>
      {canDraw && <Legend drawing={drawing} />}
    </section>
  );
}

function Legend({ drawing }: { drawing: Drawing }) {
  return (
    <ul class="legend">
      {drawing.series.map((one) => {
        const swatch = <span class={`swatch ${one.isBefore ? "before" : one.shade}`} />;
        return (
          <li key={one.name}>
            {one.choose ? (
              <button type="button" class="value" title={`Show only ${one.name}`} onClick={one.choose}>
                {swatch}
                {one.name}
              </button>
            ) : (
              <span>
                {swatch}
                {one.name}
              </span>
            )}
          </li>
        );
      })}
    </ul>
  );
}

function Numbers({ drawing, title }: { drawing: Drawing; title: string }) {
  const total = { name: "Total", values: drawing.periods.map((_, place) => totalAt(drawing, place)) };
  const columns: Pick<Series, "name" | "values">[] = [
    ...drawing.series.filter((one) => !one.isBefore),
    ...(drawing.hasTotal ? [total] : []),
    ...drawing.series.filter((one) => one.isBefore),
  ];
  const digits = moneyDigits(columns.flatMap((one) => one.values));
  return (
    <Scroll label={`${title}, as a table`}>
      <table>
        <thead>
          <tr>
            <th scope="col">Period</th>
            {columns.map((one) => (
              <th scope="col" class="number" key={one.name}>
                {one.name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {drawing.periods.map((period, place) => (
            <tr key={period}>
              <th scope="row">
                <Period name={period} days={drawing.days?.[place]} />
              </th>
              {columns.map((one) => (
                <td class="number" key={one.name}>
                  {formatted(numberOf(one.values[place]), drawing.unit, digits)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

/** A click shows these days alone. Those that are shown already are no button. */
function Period({ name, days }: { name: string; days: Range | undefined }) {
  const { view, change } = useWorkspace();
  if (!days || (days.from === view.from && days.to === view.to)) return <>{name}</>;
  return (
    <button
      type="button"
      class="value"
      title={`Show only ${rangeText(days)}`}
      onClick={() => change({ ...days, grain: "" })}
    >
      {name}
    </button>
  );
}
