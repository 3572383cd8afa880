// The tabs besides Usage, each with the question that tells whether it has anything to show.

import { useEffect, useState } from "preact/hooks";
import { ask } from "../api/client";
import type { Budget, IssueDay, Page } from "../api/shapes";
import type { View } from "../state";

export interface Tab {
  name: string;
  title: string;
  hasData: (view: View) => Promise<boolean>;
}

const hasItems = (path: string) => async () => (await ask<Page<unknown>>(path)).items.length > 0;

export const TABS: Tab[] = [
  { name: "usage", title: "Usage", hasData: async () => true },
  { name: "api-keys", title: "API keys", hasData: hasItems("api/usage/api-keys?limit=1") },
  { name: "tokens", title: "Tokens", hasData: hasItems("api/usage/tokens?limit=1") },
  { name: "merchants", title: "Merchants", hasData: hasItems("api/usage/merchants?limit=1") },
  {
    name: "issues",
    title: "Issues",
    hasData: async ({ from, to }) => (await ask<IssueDay[]>(`api/stats/daily?from=${from}&to=${to}`)).length > 0,
  },
  { name: "budgets", title: "Budgets", hasData: async () => (await ask<Page<Budget>>("api/budgets")).items.length > 0 },
];

/** The names of those that have data and may be seen. Asked once the page has its first numbers, or when they are fresh. */
export function useTabs(view: View, round: number, isReady: boolean): Set<string> {
  const [names, setNames] = useState(new Set(["usage", view.tab]));
  useEffect(() => {
    if (!isReady) return;
    let isWanted = true;
    // What the service refuses (a bound token, an older service) has no tab.
    const asked = TABS.map((tab) =>
      tab.hasData(view).then(
        (has) => (has ? tab.name : ""),
        () => "",
      ),
    );
    Promise.all(asked).then((found) => isWanted && setNames(new Set(found.filter(Boolean))));
    return () => {
      isWanted = false;
    };
  }, [isReady, round]);
  return names;
}
