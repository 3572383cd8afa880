// Filters as chips, and a box to look for a value.

import { useEffect, useId, useRef, useState } from "preact/hooks";
import { useAnswer } from "../api/answers";
import { explorePath } from "../api/explore";
import type { Explored } from "../api/shapes";
import { plain } from "../numbers";
import { type Filter, withFilter, withoutFilter } from "../state";
import { useWorkspace } from "../workspace";

const MOST_VALUES = 1000;

export function FilterBar() {
  const { view, catalogue, change } = useWorkspace();
  const [isAdding, setAdding] = useState(false);
  return (
    <div class="chips">
      {view.filters.map(({ name, value }) => (
        <button
          key={`${name}\n${value}`}
          type="button"
          class="chip"
          onClick={() => change(withoutFilter(view, name, value))}
        >
          <span class="soft">{catalogue.titleOf(name)}</span> {plain(value)} <span aria-hidden="true">×</span>
          <span class="unseen">, remove this filter</span>
        </button>
      ))}
      {view.filters.length > 1 && (
        <button type="button" class="quiet" onClick={() => change({ filters: [] })}>
          Remove all
        </button>
      )}
      <button type="button" class="quiet" aria-expanded={isAdding} onClick={() => setAdding(!isAdding)}>
        {isAdding ? "Close" : "+ Add filter"}
      </button>
      {isAdding && <Search close={() => setAdding(false)} />}
    </div>
  );
}

function Search({ close }: { close: () => void }) {
  const { view, catalogue, change } = useWorkspace();
  // Those that can be asked for together with the filters that are there.
  const dimensions = catalogue.document.dimensions.filter(
    ({ name, isAllowed }) => isAllowed && name !== "error_type" && canFilter(name),
  );
  const [name, setName] = useState(dimensions[0]?.name ?? "team");
  const [value, setValue] = useState("");
  const id = useId();
  const field = useRef<HTMLInputElement>(null);
  const values = useValues(name);
  useEffect(() => field.current?.focus(), []);

  function canFilter(dimension: string): boolean {
    const names = [...new Set([...view.filters.map((filter) => filter.name), dimension])];
    return catalogue.allows(names, "total", ["requests"]);
  }
  const add = (event: Event) => {
    event.preventDefault();
    if (!value.trim()) return;
    change({ filters: (withFilter(view, name, value.trim()) as { filters: Filter[] }).filters });
    close();
  };
  return (
    <form class="search" onSubmit={add}>
      <label>
        <span class="unseen">Filter by</span>
        <select value={name} onChange={(event) => setName(event.currentTarget.value)}>
          {dimensions.map((one) => (
            <option key={one.name} value={one.name}>
              {one.title}
            </option>
          ))}
        </select>
      </label>
      <label>
        <span class="unseen">Value</span>
        <input
          ref={field}
          type="search"
          list={id}
          value={value}
          placeholder="Search a value"
          autocomplete="off"
          onInput={(event) => setValue(event.currentTarget.value)}
        />
      </label>
      <datalist id={id}>
        {values.map((one) => (
          <option key={one} value={one} />
        ))}
      </datalist>
      <button type="submit">Add</button>
    </form>
  );
}

/** The values of a dimension in the view's days, those with most requests first. */
function useValues(name: string): string[] {
  const { view, catalogue } = useWorkspace();
  const filters = view.filters.filter((filter) => filter.name !== name);
  const dimensions = [...new Set([name, ...filters.map((filter) => filter.name)])];
  const query = { ...view, filters, grain: "total" as const, groupBy: [name], metrics: ["requests"], compare: "none" };
  const path = explorePath({ ...query, order: "-requests", limit: MOST_VALUES });
  const found = useAnswer<Explored>(catalogue.allows(dimensions, "total", ["requests"]) ? path : null);
  const values = found.value?.items.map((row) => catalogue.valueOf(row, name)) ?? [];
  return values.filter((value) => value !== null);
}
