// Who opens the page without a session: a box for a token, and what an invite link does.

import { useEffect, useRef, useState } from "preact/hooks";
import { Refusal, told } from "./api/client";
import { signIn } from "./api/session";
import type { Session } from "./api/shapes";

interface SignInProps {
  invite: string | null;
  trouble: string;
  done: () => void;
}

export function SignIn({ invite, trouble, done }: SignInProps) {
  const field = useRef<HTMLInputElement>(null);
  const [message, setMessage] = useState(trouble);
  const [isBusy, setBusy] = useState(invite !== null);

  const enter = async (by: { token: string } | { invite: string }) => {
    setBusy(true);
    setMessage("");
    try {
      await signIn(by);
      done();
    } catch (error) {
      setMessage(reasonFor(error, "invite" in by));
      setBusy(false);
    }
  };
  useEffect(() => {
    if (invite) void enter({ invite });
    else field.current?.focus();
  }, []);

  const submit = (event: Event) => {
    event.preventDefault();
    const token = field.current?.value.trim() ?? "";
    // A header's value is ASCII: anything else is no token.
    if (!/^[\x21-\x7e]+$/.test(token))
      return setMessage("This is not a token. A token begins with upt_ and has no spaces.");
    return void enter({ token });
  };
  return (
    <section class="card gate" aria-labelledby="gate-title">
      <h1 id="gate-title">Sign in</h1>
      <p>
        You need an invite link, or a token with the scope <code>read</code>. Who runs the service makes them:
      </p>
      <pre>
        <code>{"usage-pipeline invite ana\nusage-pipeline tokens create ana --scope read --expires 30d"}</code>
      </pre>
      <form onSubmit={submit} autocomplete="off">
        <label for="token">Token</label>
        <div class="row">
          <input
            ref={field}
            id="token"
            type="password"
            required
            autocomplete="off"
            spellcheck={false}
            autocapitalize="off"
            placeholder="upt_…"
            disabled={isBusy}
          />
          <button type="submit" disabled={isBusy}>
            Open
          </button>
        </div>
      </form>
      {message && (
        <p class="notice" role="alert">
          {message}
        </p>
      )}
    </section>
  );
}

interface ChoiceProps {
  session: Session | "token";
  stay: () => void;
  change: () => void;
}

/** Who is signed in and opens an invite link (again, or that of somebody else) says as whom to go on. */
export function Choice({ session, stay, change }: ChoiceProps) {
  const who = session === "token" ? "with a token" : `as ${session.name}`;
  return (
    <section class="card gate" aria-labelledby="gate-title">
      <h1 id="gate-title">You are signed in {who}</h1>
      <p>This link signs in by an invite, which is good once. You can stay as you are, and leave the invite unused.</p>
      <div class="row">
        <button type="button" onClick={stay}>
          Stay
        </button>
        <button type="button" class="quiet" onClick={change}>
          Use the invite
        </button>
      </div>
    </section>
  );
}

function reasonFor(error: unknown, isInvite: boolean): string {
  if (isInvite && error instanceof Refusal && [401, 404, 410].includes(error.status)) {
    return "This invite was used already, or is older than a day. Ask who sent it for a new one.";
  }
  return told(error);
}
