// The tabs besides Usage, each with the question that tells whether it has anything to show.

import { useEffect, useState } from "preact/hooks";
import { ask } from "../api/client";
import type { Budget, IssueDay, Page } from "../api/shapes";
import type { View } from "../state";

export interface Tab {
  name: string;
  title: string;
  /** Whether a token that is bound to some teams may ask. */
  isByTeam?: boolean;
  hasData: (view: View) => Promise<boolean>;
}

const hasItems = (path: string) => async () => (await ask<Page<unknown>>(path)).items.length > 0;

export const TABS: Tab[] = [
  { name: "usage", title: "Usage", isByTeam: true, hasData: async () => true },
  { name: "api-keys", title: "API keys", hasData: hasItems("api/usage/api-keys?limit=1") },
  { name: "tokens", title: "Tokens", hasData: hasItems("api/usage/tokens?limit=1") },
  { name: "merchants", title: "Merchants", hasData: hasItems("api/usage/merchants?limit=1") },
  {
    name: "issues",
    title: "Issues",
    hasData: async ({ from, to }) => (await ask<IssueDay[]>(`api/stats/daily?from=${from}&to=${to}`)).length > 0,
  },
  {
    name: "budgets",
    title: "Budgets",
    isByTeam: true,
    hasData: async () => (await ask<Page<Budget>>("api/budgets")).items.length > 0,
  },
];

/** The names of those that have data and may be seen; asked again with each refresh. */
export function useTabs(view: View, today: string, round: number): Set<string> {
  const [names, setNames] = useState(new Set(["usage", view.tab]));
  useEffect(() => {
    let isWanted = true;
    findTabs(view, today).then((found) => isWanted && setNames(new Set([...found, "usage"])));
    return () => {
      isWanted = false;
    };
  }, [round]);
  return names;
}

async function findTabs(view: View, today: string): Promise<string[]> {
  // The service keeps from a bound token what it cannot tell apart by team.
  const days = await ask<{ apiKeyRequests: number | null }[]>(`api/usage/summary?from=${today}&to=${today}`).catch(
    () => [],
  );
  const isBound = !days.length || days.some((day) => day.apiKeyRequests === null);
  const tabs = TABS.filter((tab) => tab.isByTeam || !isBound);
  const asked = tabs.map((tab) => tab.hasData(view).catch(() => false));
  const has = await Promise.all(asked);
  return tabs.filter((_, place) => has[place]).map((tab) => tab.name);
}
