// What the page shows: days, grain, grouping, metric, comparison.

import type { TargetedEvent } from "preact";
import { useState } from "preact/hooks";
import type { Grain } from "../api/shapes";
import { PRESETS } from "../days";
import { type Compare, usualGrain, type View } from "../state";
import { dimensionsOf, useWorkspace } from "../workspace";
import { FilterBar } from "./filters";

interface Option {
  value: string;
  title: string;
  isDisabled?: boolean;
}

export function Controls() {
  const { view, change } = useWorkspace();
  return (
    <section class="controls" aria-label="What is shown">
      <div class="fields">
        <Days />
        <Choice
          label="Grain"
          value={view.grain}
          options={useGrains()}
          choose={(grain) => change({ grain: grain as Grain | "" })}
        />
        <Groupings />
        <Choice
          label="Metric"
          value={view.metric}
          options={useMetrics()}
          choose={(metric) => change({ metric, order: "" })}
        />
        <Choice
          label="Compare with"
          value={view.compare}
          options={COMPARISONS}
          choose={(compare) => change({ compare: compare as Compare })}
        />
      </div>
      <FilterBar />
    </section>
  );
}

/** The days alone, for a tab that needs nothing else. */
export const OnlyDays = () => (
  <section class="controls" aria-label="What is shown">
    <div class="fields">
      <Days />
    </div>
  </section>
);

const COMPARISONS: Option[] = [
  { value: "none", title: "Nothing" },
  { value: "previous", title: "The period before" },
  { value: "month_before", title: "The month before" },
];

interface ChoiceProps {
  label: string;
  value: string;
  options: Option[];
  choose: (value: string) => void;
}

export function Choice({ label, value, options, choose }: ChoiceProps) {
  const isKnown = options.some((option) => option.value === value);
  return (
    <label class="field">
      <span>{label}</span>
      <select value={value} onChange={(event) => choose(event.currentTarget.value)}>
        {!isKnown && <option value={value}>{value}</option>}
        {options.map((option) => (
          <option key={option.value} value={option.value} disabled={option.isDisabled ?? false}>
            {option.title}
          </option>
        ))}
      </select>
    </label>
  );
}

function Days() {
  const { view, catalogue, change } = useWorkspace();
  const { today } = catalogue.document;
  // On some days two names have the same days: then it is the one that was chosen.
  const [last, setLast] = useState("");
  const ranges = PRESETS.map((preset) => ({ ...preset, days: preset.range(today) }));
  const fitting = ranges.filter(({ days }) => days.from === view.from && days.to === view.to).map(({ name }) => name);
  const current = fitting.includes(last) ? last : (fitting[0] ?? "custom");
  const options = [
    ...ranges.map(({ name, title }) => ({ value: name, title })),
    { value: "custom", title: "These days", isDisabled: current !== "custom" },
  ];
  const choose = (name: string) => {
    const chosen = ranges.find((range) => range.name === name);
    setLast(name);
    if (chosen) change({ ...chosen.days, grain: "" });
  };
  const setDay = (part: "from" | "to") => (event: TargetedEvent<HTMLInputElement>) => {
    const day = event.currentTarget.value;
    if (!day) return;
    const next = { from: view.from, to: view.to, [part]: day };
    // The other end goes along, rather than a range that ends before it begins.
    change(next.from <= next.to ? { ...next, grain: "" } : { from: day, to: day, grain: "" });
  };
  return (
    <>
      <Choice label="Days" value={current} options={options} choose={choose} />
      <label class="field">
        <span>From</span>
        <input type="date" value={view.from} max={today} onChange={setDay("from")} />
      </label>
      <label class="field">
        <span>To</span>
        <input type="date" value={view.to} max={today} onChange={setDay("to")} />
      </label>
    </>
  );
}

function useGrains(): Option[] {
  const { view, catalogue } = useWorkspace();
  const dimensions = dimensionsOf(view, view.groupBy);
  const grains = (["hour", "day", "week", "month"] as const).map((grain) => ({
    value: grain,
    title: `By ${grain}`,
    isDisabled: grain !== view.grain && !catalogue.allows(dimensions, grain, [view.metric]),
  }));
  return [{ value: "", title: `Automatic (${usualGrain(view)})` }, ...grains];
}

function useMetrics(): Option[] {
  const { view, catalogue } = useWorkspace();
  const dimensions = dimensionsOf(view, view.groupBy);
  return catalogue.document.metrics.map(({ name, title }) => ({
    value: name,
    title,
    isDisabled: name !== view.metric && !catalogue.allows(dimensions, "total", [name]),
  }));
}

function Groupings() {
  const { view, catalogue, change } = useWorkspace();
  const [first = "", second = ""] = view.groupBy;
  const canBeAsked = (groupBy: string[]) =>
    catalogue.allows(dimensionsOf(view, groupBy), "total", [view.metric]) ||
    catalogue.batches(
      dimensionsOf(view, groupBy),
      "total",
      catalogue.document.metrics.map((metric) => metric.name),
    ).length > 0;
  const options = (groupBy: (name: string) => string[], besides: string): Option[] =>
    catalogue.document.dimensions
      .filter((one) => one.isAllowed && one.name !== besides)
      .map((one) => ({ value: one.name, title: one.title, isDisabled: !canBeAsked(groupBy(one.name)) }));
  const choose = (groupBy: string[]) => change({ ...regrouped(view, groupBy.filter(Boolean), catalogue) });
  const none = { value: "", title: "Nothing" };
  return (
    <>
      <Choice
        label="Group by"
        value={first}
        options={[none, ...options((name) => [name], "")]}
        choose={(name) => choose([name])}
      />
      {first && (
        <Choice
          label="and by"
          value={second}
          options={[none, ...options((name) => [first, name], first)]}
          choose={(name) => choose([first, name])}
        />
      )}
    </>
  );
}

// A metric that the new grouping cannot have gives way to the first that it can.
function regrouped(
  view: View,
  groupBy: string[],
  catalogue: ReturnType<typeof useWorkspace>["catalogue"],
): Partial<View> {
  const dimensions = dimensionsOf(view, groupBy);
  if (catalogue.allows(dimensions, "total", [view.metric])) return { groupBy, order: "" };
  const metric = catalogue.document.metrics.find((one) => catalogue.allows(dimensions, "total", [one.name]))?.name;
  return { groupBy, order: "", ...(metric && { metric }) };
}
