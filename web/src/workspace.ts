// What every panel needs: the view and how to change it, what may be asked, and who asks.

import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Catalogue } from "./api/explore";
import type { View } from "./state";

export interface Workspace {
  view: View;
  catalogue: Catalogue;
  /** Changes the view, and with it the address. */
  change: (part: Partial<View>) => void;
  /** Whether links carry who is signed in (a cookie does; a token of this tab does not). */
  hasCookie: boolean;
}

const Context = createContext<Workspace | null>(null);
export const WorkspaceProvider = Context.Provider;

export function useWorkspace(): Workspace {
  const workspace = useContext(Context);
  if (!workspace) throw new Error("expected to be within a workspace");
  return workspace;
}

/** The dimensions that a question about these groupings and the view's filters has. */
export const dimensionsOf = (view: View, groupBy: string[]): string[] => [
  ...new Set([...groupBy, ...view.filters.map((filter) => filter.name)]),
];
