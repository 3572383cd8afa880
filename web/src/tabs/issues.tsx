// Issues: how many come and go, and which are popular.

import { useMemo } from "preact/hooks";
import { useAnswer } from "../api/answers";
import type { IssueDay, PopularIssue } from "../api/shapes";
import { Figure } from "../charts/figure";
import { axisOf, type Drawing } from "../charts/series";
import { OnlyDays } from "../panels/controls";
import { Scroll } from "../panels/scroll";
import { Trouble } from "../panels/trouble";
import { useWorkspace } from "../workspace";

export function Issues() {
  const { view, catalogue } = useWorkspace();
  const days = useAnswer<IssueDay[]>(`api/stats/daily?from=${view.from}&to=${view.to}`);
  const drawing = useMemo((): Drawing | undefined => {
    if (!days.value) return undefined;
    const axis = axisOf(view, "day", catalogue.document.timezone, []);
    // A day that is not counted yet is a gap.
    const byDay = new Map(days.value.map((day) => [day.date, day]));
    const values = (name: "createdCount" | "resolvedCount") => axis.keys.map((key) => byDay.get(key)?.[name] ?? null);
    return {
      kind: "lines",
      unit: "requests",
      ...axis,
      series: [
        { name: "created", shade: "shade-1", values: values("createdCount") },
        { name: "resolved", shade: "shade-2", values: values("resolvedCount") },
      ],
      hasTotal: false,
    };
  }, [days.value]);
  return (
    <>
      <OnlyDays />
      <Figure
        title="Issues created and resolved"
        drawing={drawing}
        {...days}
        empty={<p>No issues are counted for these days. Each day is counted in the night after it.</p>}
        isLarge
      />
      <Popular />
    </>
  );
}

function Popular() {
  const found = useAnswer<PopularIssue[]>("api/issues/popular");
  return (
    <section class="card" aria-labelledby="popular-title" aria-busy={found.isLoading}>
      <header>
        <h2 id="popular-title">Popular issues</h2>
        <p class="note">Of the last seven days.</p>
      </header>
      {found.error ? <Trouble error={found.error} /> : null}
      {found.value && !found.value.length && <p class="empty">No issue was created in the last seven days.</p>}
      {found.value && found.value.length > 0 && (
        <Scroll label="Popular issues">
          <table>
            <thead>
              <tr>
                {["#", "Issue", "Created"].map((title) => (
                  <th key={title} scope="col">
                    {title}
                  </th>
                ))}
                {["Views", "Comments", "Score"].map((title) => (
                  <th key={title} scope="col" class="number">
                    {title}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {found.value.map((issue) => (
                <tr key={issue.id}>
                  <td>{issue.rank}</td>
                  <th scope="row">
                    {issue.title} <span class="soft">{issue.id}</span>
                  </th>
                  <td>{issue.createdAt.slice(0, 10)}</td>
                  {[issue.viewCount, issue.commentCount, issue.score].map((number, place) => (
                    <td key={place} class="number">
                      {number.toLocaleString("en-US")}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </section>
  );
}
