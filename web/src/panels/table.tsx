// The query as a table: sorted by the service, with totals, and more on demand.

import { type Answer, usePages } from "../api/answers";
import { explorePath, type Query } from "../api/explore";
import type { Explored, Metric, Row } from "../api/shapes";
import { formatted, moneyDigits, numberOf, plain } from "../numbers";
import { choose, type Filter } from "../state";
import { dimensionsOf, useWorkspace } from "../workspace";
import { Downloads } from "./downloads";
import { NoUsage } from "./empty";
import { Scroll } from "./scroll";
import { ChangeText } from "./tiles";
import type { Totals } from "./totals";
import { Trouble } from "./trouble";

const COLUMNS = [
  "cost_usd",
  "requests",
  "total_tokens",
  "error_rate",
  "latency_p95_ms",
  "distinct_users",
  "cost_per_request_usd",
];
const PAGE = 25;

export function GroupTable({ totals }: { totals: Answer<Totals> }) {
  const { view, catalogue, change } = useWorkspace();
  const metrics = useColumns();
  const order = view.order || `-${view.metric}`;
  const query: Query = { ...view, grain: "total", metrics: metrics.map((metric) => metric.name), order, limit: PAGE };
  const found = usePages<Row, Explored>(view.groupBy.length && metrics.length ? explorePath(query) : null);
  if (!view.groupBy.length) return null;
  const isCompared = view.compare !== "none";
  const count = found.value?.rows ?? 0;
  const sort = (name: string) => change({ order: order === `-${name}` ? name : `-${name}` });
  return (
    <section class={`card ${found.value ? "" : "waits"}`} aria-labelledby="table-title" aria-busy={found.isLoading}>
      <header>
        <h2 id="table-title">By {catalogue.titlesOf(view.groupBy)}</h2>
        <p class="note">A value adds a filter. A row shows its requests.</p>
        <div class="actions">
          <Downloads query={query} what="this table" />
        </div>
      </header>
      {found.error ? <Trouble error={found.error} /> : null}
      {found.value && !found.items.length ? (
        <div class="empty">
          <NoUsage />
        </div>
      ) : null}
      {found.items.length > 0 && (
        <Scroll label="Groups of the range">
          <table class="groups">
            <thead>
              <tr>
                {view.groupBy.map((name) => (
                  <Heading
                    key={name}
                    name={name}
                    title={catalogue.titleOf(name)}
                    order={order}
                    sort={() => change({ order: order === name ? `-${name}` : name })}
                  />
                ))}
                {metrics.flatMap((metric) => [
                  <Heading
                    key={metric.name}
                    name={metric.name}
                    title={metric.title}
                    hint={metric.description}
                    order={order}
                    sort={() => sort(metric.name)}
                    isNumber
                  />,
                  ...(isCompared && metric.name === view.metric
                    ? [
                        <th key="before" scope="col" class="number">
                          Before
                        </th>,
                        <th key="change" scope="col" class="number">
                          Change
                        </th>,
                      ]
                    : []),
                ])}
                <th scope="col">
                  <span class="unseen">Single requests</span>
                </th>
              </tr>
            </thead>
            <Body rows={found.items} metrics={metrics} totals={totals.value} />
          </table>
        </Scroll>
      )}
      {found.more && (
        <button type="button" class="more" onClick={found.more}>
          Show {Math.min(PAGE, count - found.items.length)} more of {(count - found.items.length).toLocaleString("en")}
        </button>
      )}
      {found.moreError ? <Trouble error={found.moreError} /> : null}
    </section>
  );
}

/** The metrics that can be had together for these groupings: the view's own first, then what the rows are sorted by. */
function useColumns(): Metric[] {
  const { view, catalogue } = useWorkspace();
  // Of one user there is one.
  const usual = COLUMNS.filter((name) => name !== "distinct_users" || !view.groupBy.includes("user"));
  const wanted = [...new Set([view.metric, view.order.replace("-", ""), ...usual])].filter((name) =>
    catalogue.has(name),
  );
  const dimensions = dimensionsOf(view, view.groupBy);
  const names: string[] = [];
  for (const name of wanted) if (catalogue.allows(dimensions, "total", [...names, name])) names.push(name);
  const place = (name: string) => (name === view.metric ? -1 : COLUMNS.indexOf(name));
  return names.sort((one, other) => place(one) - place(other)).map((name) => catalogue.metric(name));
}

interface HeadingProps {
  name: string;
  title: string;
  hint?: string;
  order: string;
  sort: () => void;
  isNumber?: boolean;
}

function Heading({ name, title, hint, order, sort, isNumber }: HeadingProps) {
  const direction = order === name ? "ascending" : order === `-${name}` ? "descending" : undefined;
  return (
    <th scope="col" class={isNumber ? "number" : ""} aria-sort={direction ?? "none"}>
      <button type="button" class="sort" title={hint} onClick={sort}>
        {title}
        <span aria-hidden="true">{direction === "ascending" ? " ↑" : direction ? " ↓" : ""}</span>
      </button>
    </th>
  );
}

function Body({ rows, metrics, totals }: { rows: Row[]; metrics: Metric[]; totals: Totals | undefined }) {
  const { view, catalogue } = useWorkspace();
  const digits = new Map(metrics.map((one) => [one.name, moneyDigits(rows.map((row) => numberOf(row[one.member])))]));
  const most = Math.max(...rows.map((row) => numberOf(row[metrics[0]?.member ?? ""]) ?? 0));
  return (
    <>
      <tbody>
        {rows.map((row) => (
          <Line key={catalogue.groupOf(row, view.groupBy)} row={row} metrics={metrics} digits={digits} most={most} />
        ))}
      </tbody>
      {totals && (
        <tfoot>
          <tr>
            <th scope="row" colSpan={view.groupBy.length}>
              Total
            </th>
            <Cells row={totals.now} before={totals.before} metrics={metrics} digits={digits} />
            <td />
          </tr>
        </tfoot>
      )}
    </>
  );
}

/** A comparison has the groups of the other days too, with zeros: whoever is there now has a request, or an error. */
const isOfOtherDays = (row: Row): boolean => numberOf(row.requests ?? row.errors) === 0;

interface LineProps {
  row: Row;
  metrics: Metric[];
  digits: Map<string, number>;
  most: number;
}

function Line({ row, metrics, digits, most }: LineProps) {
  const { view, catalogue, change } = useWorkspace();
  const share = most > 0 ? Math.max(0, (numberOf(row[metrics[0]?.member ?? ""]) ?? 0) / most) : 0;
  const open = () => {
    const chosen = choose({ ...view, groupBy: [] }, catalogue.filtersOf(row, view.groupBy));
    change({ requests: "all", errorType: "", ...chosen });
  };
  const openUnlessOnButton = (event: MouseEvent) => {
    if (!(event.target as Element).closest("button")) open();
  };
  const name = catalogue.groupOf(row, view.groupBy);
  return (
    <tr class="opens" onClick={openUnlessOnButton}>
      {view.groupBy.map((one, place) => (
        <GroupCell
          key={one}
          value={plain(catalogue.valueOf(row, one))}
          filter={catalogue.filterOf(row, one)}
          share={place === 0 ? share : undefined}
        />
      ))}
      <Cells row={isOfOtherDays(row) ? {} : row} before={row.previous ?? {}} metrics={metrics} digits={digits} />
      <td>
        <button type="button" class="quiet" onClick={open}>
          Requests<span class="unseen"> of {name}</span>
        </button>
      </td>
    </tr>
  );
}

interface GroupCellProps {
  value: string;
  /** None: it cannot be filtered for. */
  filter: Filter | undefined;
  share: number | undefined;
}

function GroupCell({ value, filter, share }: GroupCellProps) {
  const { view, change } = useWorkspace();
  return (
    <th scope="row">
      {filter ? (
        <button type="button" class="value" title={`Show only ${value}`} onClick={() => change(choose(view, [filter]))}>
          {value}
        </button>
      ) : (
        <span class="soft">{value}</span>
      )}
      {share !== undefined && (
        <span class="meter" aria-hidden="true">
          <span style={{ width: `${100 * share}%` }} />
        </span>
      )}
    </th>
  );
}

interface CellsProps {
  row: Record<string, unknown>;
  before: Record<string, unknown>;
  metrics: Metric[];
  digits: Map<string, number>;
}

function Cells({ row, before, metrics, digits }: CellsProps) {
  const { view } = useWorkspace();
  return (
    <>
      {metrics.flatMap((metric) => {
        const [now, then] = [numberOf(row[metric.member]), numberOf(before[metric.member])];
        const write = (value: number | null) => formatted(value, metric.unit, digits.get(metric.name));
        const cell = (
          <td key={metric.name} class="number">
            {write(now)}
          </td>
        );
        if (view.compare === "none" || metric.name !== view.metric) return [cell];
        return [
          cell,
          <td key="before" class="number soft">
            {write(then)}
          </td>,
          <td key="change" class="number">
            <ChangeText now={now} before={then} unit={metric.unit} />
          </td>,
        ];
      })}
    </>
  );
}
