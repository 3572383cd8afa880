// What is round every tab: name, tabs, what can be done with all of it, and whether the service is well.

import type { ComponentChildren } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";
import { Round } from "./api/answers";
import type { Health } from "./api/shapes";

interface FrameProps {
  tabs?: { name: string; title: string }[];
  tab?: string;
  open?: (tab: string) => void;
  out?: () => void;
  who?: string;
  refresh?: () => void;
  children?: ComponentChildren;
}

export function Frame({ tabs = [], tab, open, out, who, refresh, children }: FrameProps) {
  return (
    <>
      <header class="top">
        <span class="brand">
          <span class="mark" aria-hidden="true">
            <i />
            <i />
            <i />
          </span>
          usage_pipeline
        </span>
        {tabs.length > 1 && (
          <nav aria-label="Kinds of usage">
            {tabs.map(({ name, title }) => (
              <button
                key={name}
                type="button"
                class="tab"
                aria-current={name === tab ? "page" : undefined}
                onClick={() => open?.(name)}
              >
                {title}
              </button>
            ))}
          </nav>
        )}
        <div class="actions">
          <HealthLine isTold="down" />
          {refresh && (
            <button type="button" class="quiet" onClick={refresh}>
              Refresh
            </button>
          )}
          {out && (
            <button type="button" class="quiet" onClick={out} title={who && `Signed in as ${who}`}>
              Sign out
            </button>
          )}
        </div>
      </header>
      <main>{children}</main>
      <footer>
        <HealthLine />
        <a href="docs" target="_blank" rel="noopener">
          API documentation
        </a>
      </footer>
    </>
  );
}

/** Whether the service's parts work; with `isTold` only where they do not. */
function HealthLine({ isTold }: { isTold?: "down" }) {
  const found = useHealth();
  const down = found && (["database", "redis", "scheduler"] as const).filter((part) => found[part] === "down");
  const state = !found ? "unknown" : down?.length ? "down" : "ok";
  const words = {
    unknown: "Checking the service …",
    ok: "Database and Redis are up",
    down: `Down: ${down?.join(", ")}`,
  }[state];
  if (isTold && state !== isTold) return null;
  return (
    <p class="health" role="status" data-state={state}>
      {words}
    </p>
  );
}

// Asked once for each round of numbers, although the line is drawn anew when somebody signs in.
let asked: { round: number; health: Promise<Health> } | undefined;

function useHealth(): Health | undefined {
  const round = useContext(Round);
  const [health, setHealth] = useState<Health | undefined>();
  useEffect(() => {
    if (asked?.round !== round) asked = { round, health: askHealth() };
    void asked.health.then(setHealth);
  }, [round]);
  return health;
}

// A service that is not well answers 503, with the same document.
const askHealth = (): Promise<Health> =>
  fetch("healthz")
    .then((response) => response.json())
    .catch(() => ({ database: "down", redis: "down", scheduler: "off" }));
