// A table of what the service lists, page by page: API keys, tokens, merchants.

import { usePages } from "../api/answers";
import type { Value } from "../api/shapes";
import { momentText } from "../days";
import { plain } from "../numbers";
import { Scroll } from "../panels/scroll";
import { Trouble } from "../panels/trouble";
import { useWorkspace } from "../workspace";

type Item = Record<string, Value>;

export interface Column {
  member: string;
  title: string;
  kind?: "count" | "bytes" | "moment";
}

interface ListingProps {
  path: string;
  title: string;
  note: string;
  columns: Column[];
  empty: string;
  command: string;
}

export function Listing({ path, title, note, columns, empty, command }: ListingProps) {
  const found = usePages<Item>(`${path}?limit=100`);
  return (
    <section class="card" aria-labelledby="listing-title" aria-busy={found.isLoading}>
      <header>
        <h2 id="listing-title">{title}</h2>
        <p class="note">{note}</p>
      </header>
      {found.error ? <Trouble error={found.error} /> : null}
      {found.value && !found.items.length && (
        <div class="empty">
          <p>{empty}</p>
          <pre>
            <code>{command}</code>
          </pre>
        </div>
      )}
      {found.items.length > 0 && <Table columns={columns} items={found.items} title={title} />}
      {found.more && (
        <button type="button" class="more" onClick={found.more}>
          Show 100 more
        </button>
      )}
      {found.moreError ? <Trouble error={found.moreError} /> : null}
    </section>
  );
}

function Table({ columns, items, title }: { columns: Column[]; items: Item[]; title: string }) {
  const { catalogue } = useWorkspace();
  const write = (value: Value | undefined, column: Column): string => {
    if (value === null || value === undefined) return "–";
    if (column.kind === "moment") return momentText(String(value), catalogue.document.timezone);
    return column.kind ? Number(value).toLocaleString("en-US") : plain(value);
  };
  const isNumber = (column: Column) => (column.kind === "count" || column.kind === "bytes" ? "number" : "");
  return (
    <Scroll label={title}>
      <table>
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column.member} scope="col" class={isNumber(column)}>
                {column.title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {items.map((item) => (
            <tr key={JSON.stringify(item)}>
              {columns.map((column, place) =>
                place === 0 ? (
                  <th key={column.member} scope="row">
                    {write(item[column.member], column)}
                  </th>
                ) : (
                  <td key={column.member} class={isNumber(column)}>
                    {write(item[column.member], column)}
                  </td>
                ),
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
