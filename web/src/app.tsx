// The page as a whole: who is signed in, what may be asked, and the tab of the address.

import { useContext, useEffect, useMemo, useState } from "preact/hooks";
import { Round, useAnswer } from "./api/answers";
import { forgetAnswers, quotaLeft, Refusal, told } from "./api/client";
import { Catalogue } from "./api/explore";
import { currentSession, signOut, takeInvite } from "./api/session";
import type { Dimensions, Health, Session } from "./api/shapes";
import { clockText, rangeText } from "./days";
import { Trouble } from "./panels/trouble";
import { SignIn } from "./sign_in";
import { readView, type View, writeView } from "./state";
import { Budgets } from "./tabs/budgets";
import { ApiKeys, Merchants, Tokens } from "./tabs/counters";
import { Issues } from "./tabs/issues";
import { TABS, useTabs } from "./tabs/tabs";
import { Usage } from "./tabs/usage";
import { WorkspaceProvider } from "./workspace";

type SignedIn = Session | "token";
const invite = takeInvite();

export function App() {
  const [session, setSession] = useState<SignedIn | null | undefined>(undefined);
  const [trouble, setTrouble] = useState("");
  const look = () =>
    currentSession().then(setSession, (error) => {
      setTrouble(told(error));
      setSession(null);
    });
  useEffect(() => {
    if (invite) setSession(null);
    else void look();
  }, []);
  const leave = (reason: string) => {
    setTrouble(reason);
    signOut().catch(() => undefined);
    setSession(null);
  };
  if (session === undefined) return <Frame />;
  if (session === null) {
    return (
      <Frame>
        <SignIn invite={invite} trouble={trouble} done={look} />
      </Frame>
    );
  }
  return <Workspace session={session} leave={leave} />;
}

function Workspace({ session, leave }: { session: SignedIn; leave: (reason: string) => void }) {
  const [round, setRound] = useState(0);
  const refresh = () => {
    forgetAnswers();
    setRound(round + 1);
  };
  return (
    <Round.Provider value={round}>
      <Loaded session={session} leave={leave} refresh={refresh} round={round} />
    </Round.Provider>
  );
}

interface LoadedProps {
  session: SignedIn;
  leave: (reason: string) => void;
  refresh: () => void;
  round: number;
}

function Loaded({ session, leave, refresh, round }: LoadedProps) {
  const dimensions = useAnswer<Dimensions>("api/usage/explore/dimensions");
  const refusal = dimensions.error instanceof Refusal ? dimensions.error : undefined;
  useEffect(() => {
    if (refusal && [401, 403].includes(refusal.status)) leave(told(refusal));
  }, [refusal]);
  const out = () => leave("");
  if (dimensions.error && !dimensions.value) {
    return (
      <Frame out={out} refresh={refresh}>
        <Trouble error={dimensions.error} />
      </Frame>
    );
  }
  if (!dimensions.value) return <Frame out={out} />;
  return <Board document={dimensions.value} session={session} out={out} refresh={refresh} round={round} />;
}

interface BoardProps {
  document: Dimensions;
  session: SignedIn;
  out: () => void;
  refresh: () => void;
  round: number;
}

function Board({ document: known, session, out, refresh, round }: BoardProps) {
  const { view, change } = useAddress(known.today);
  const catalogue = useMemo(() => new Catalogue(known), [known]);
  const tabs = useTabs(view, known.today, round);
  const hasCookie = session !== "token" && session.signedInBy !== "token";
  const asOf = known.asOf ? `As of ${clockText(known.asOf, known.timezone, known.today)}, ${known.timezone}` : "";
  return (
    <WorkspaceProvider value={{ view, catalogue, change, hasCookie }}>
      <Frame
        tabs={TABS.filter((tab) => tabs.has(tab.name))}
        tab={view.tab}
        open={(tab) => change({ tab })}
        out={out}
        who={session === "token" ? "" : session.name}
        refresh={refresh}
      >
        <div class="headline">
          <h1>{rangeText(view)}</h1>
          <p class="note">
            <span>{asOf}</span> <span>{quotaLeft()}</span>
          </p>
        </div>
        {session !== "token" && <Bounds session={session} />}
        <Shown tab={view.tab} />
      </Frame>
    </WorkspaceProvider>
  );
}

/** The view of the address. Each change is a step that the browser's back button takes back. */
function useAddress(today: string) {
  const [view, setView] = useState(() => readView(location.search, today));
  useEffect(() => {
    history.replaceState(null, "", writeView(view));
    const follow = () => setView(readView(location.search, today));
    addEventListener("popstate", follow);
    return () => removeEventListener("popstate", follow);
  }, []);
  const change = (part: Partial<View>) => {
    const next = { ...view, ...part };
    if (writeView(next) !== writeView(view)) history.pushState(null, "", writeView(next));
    setView(next);
  };
  return { view, change };
}

function Shown({ tab }: { tab: string }) {
  switch (tab) {
    case "api-keys":
      return <ApiKeys />;
    case "tokens":
      return <Tokens />;
    case "merchants":
      return <Merchants />;
    case "issues":
      return <Issues />;
    case "budgets":
      return <Budgets />;
    default:
      return <Usage />;
  }
}

function Bounds({ session }: { session: Session }) {
  const bounds = Object.entries(session.bounds ?? {}).filter(([, values]) => values.length);
  if (!bounds.length) return null;
  const words = bounds.map(([name, values]) => `${name} ${values.join(" or ")}`).join(" and ");
  return <p class="note">You see only what belongs to {words}.</p>;
}

interface FrameProps {
  tabs?: { name: string; title: string }[];
  tab?: string;
  open?: (tab: string) => void;
  out?: () => void;
  who?: string;
  refresh?: () => void;
  children?: preact.ComponentChildren;
}

function Frame({ tabs = [], tab, open, out, who, refresh, children }: FrameProps) {
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
          <HealthLine />
          <a href="docs" target="_blank" rel="noopener">
            API documentation
          </a>
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
    </>
  );
}

function HealthLine() {
  const found = useHealth();
  const down = found && (["database", "redis", "scheduler"] as const).filter((part) => found[part] === "down");
  const state = !found ? "unknown" : down?.length ? "down" : "ok";
  const words = {
    unknown: "Checking the service …",
    ok: "Database and Redis are up",
    down: `Down: ${down?.join(", ")}`,
  }[state];
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
