// The page as a whole: who is signed in, what may be asked, and the tab of the address.

import { useEffect, useMemo, useState } from "preact/hooks";
import { Round, useAnswer } from "./api/answers";
import { forgetAnswers, forgetToken, quotaLeft, Refusal, told } from "./api/client";
import { Catalogue } from "./api/explore";
import { currentSession, signOut, takeInvite } from "./api/session";
import type { Dimensions, Session } from "./api/shapes";
import { clockText, rangeText } from "./days";
import { Frame } from "./frame";
import { Trouble } from "./panels/trouble";
import { Choice, SignIn } from "./sign_in";
import { readView, type View, writeView } from "./state";
import { Budgets } from "./tabs/budgets";
import { ApiKeys, Merchants, Tokens } from "./tabs/counters";
import { Issues } from "./tabs/issues";
import { TABS, useTabs } from "./tabs/tabs";
import { Usage } from "./tabs/usage";
import { WorkspaceProvider } from "./workspace";

type SignedIn = Session | "token";
const given = takeInvite();

export function App() {
  const [session, setSession] = useState<SignedIn | null | undefined>(undefined);
  const [trouble, setTrouble] = useState("");
  const [invite, setInvite] = useState(given);
  const look = () =>
    currentSession().then(setSession, (error) => {
      setTrouble(told(error));
      setSession(null);
    });
  useEffect(() => void look(), []);
  const leave = (reason: string) => {
    setTrouble(reason);
    forgetToken();
    setSession(null);
  };
  if (session === undefined) return <Frame />;
  if (session === null) {
    return (
      <Frame>
        <SignIn invite={invite} trouble={trouble} done={() => void look().then(() => setInvite(null))} />
      </Frame>
    );
  }
  if (invite) {
    return (
      <Frame>
        <Choice session={session} stay={() => setInvite(null)} change={() => setSession(null)} />
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
    if (refusal?.status === 401 && session !== "token") leave("Your session is over. Sign in again.");
    else if (refusal && [401, 403].includes(refusal.status)) leave(told(refusal));
  }, [refusal]);
  // Who is signed in by a proxy signs out there.
  const isByProxy = session !== "token" && session.signedInBy === "proxy";
  const out = isByProxy
    ? undefined
    : () =>
        void signOut().then(
          () => leave(""),
          (error) => leave(`You are still signed in. ${told(error)}`),
        );
  if (dimensions.error && !dimensions.value) {
    return (
      <Frame {...(out && { out })} refresh={refresh}>
        <Trouble error={dimensions.error} />
      </Frame>
    );
  }
  if (!dimensions.value) return <Frame {...(out && { out })} />;
  return <Board document={dimensions.value} session={session} out={out} refresh={refresh} round={round} />;
}

interface BoardProps {
  document: Dimensions;
  session: SignedIn;
  out: (() => void) | undefined;
  refresh: () => void;
  round: number;
}

function Board({ document: known, session, out, refresh, round }: BoardProps) {
  const catalogue = useMemo(() => new Catalogue(known), [known]);
  const { view, change } = useAddress(known.today, catalogue);
  const tabs = useTabs(view, known.today, round);
  const hasCookie = session !== "token" && session.signedInBy !== "token";
  const asOf = known.asOf ? `As of ${clockText(known.asOf, known.timezone, known.today)}, ${known.timezone}` : "";
  return (
    <WorkspaceProvider value={{ view, catalogue, change, hasCookie }}>
      <Frame
        tabs={TABS.filter((tab) => tabs.has(tab.name))}
        tab={view.tab}
        open={(tab) => change({ tab })}
        {...(out && { out })}
        who={session === "token" ? "" : session.name}
        refresh={refresh}
      >
        <div class="headline">
          <h1>{hasDays(view.tab) ? rangeText(view) : TABS.find((tab) => tab.name === view.tab)?.title}</h1>
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

// All others tell what there is now.
const hasDays = (tab: string): boolean => ["usage", "issues"].includes(tab);

/** The view of the address. Each change is a step that the browser's back button takes back. */
function useAddress(today: string, catalogue: Catalogue) {
  const read = () => readView(location.search, today, (name) => catalogue.has(name));
  const [view, setView] = useState(read);
  useEffect(() => {
    history.replaceState(null, "", writeView(view));
    const follow = () => setView(read());
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
