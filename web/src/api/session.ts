// Signing in and out: by a session's cookie where the service has sessions, otherwise by a token that only this tab keeps.

import { ask, forgetAnswers, forgetToken, keepToken, keptToken, Refusal, send, stopAsking } from "./client";
import type { Session } from "./shapes";

const PATH = "api/session";

/** Who is signed in; null: nobody. A token of this tab is believed until the service refuses it. */
export async function currentSession(): Promise<Session | "token" | null> {
  if (keptToken()) return "token";
  try {
    // Without the question the answer to nobody would be a 401, which a browser writes into its console as an error.
    return await ask<Session | null>(`${PATH}?nobody=allowed`);
  } catch (error) {
    if (error instanceof Refusal && [401, 403, 404].includes(error.status)) return null;
    throw error;
  }
}

/** Signs in with `{token}` or `{invite}`. Raises Refusal. */
export async function signIn(by: { token: string } | { invite: string }): Promise<void> {
  try {
    await send(PATH, { method: "POST", body: JSON.stringify(by), headers: { "Content-Type": "application/json" } });
  } catch (error) {
    const hasSessions = !(error instanceof Refusal && [404, 405, 501].includes(error.status));
    if (hasSessions || !("token" in by)) throw error;
    keepToken(by.token);
  }
  forgetAnswers();
}

export async function signOut(): Promise<void> {
  const isOfTab = keptToken() !== null;
  forgetToken();
  stopAsking();
  if (!isOfTab) await send(PATH, { method: "DELETE" });
}

/** The code of an invite link (`#invite=CODE`), which is taken out of the address at once. */
export function takeInvite(): string | null {
  const code = new URLSearchParams(location.hash.slice(1)).get("invite");
  if (code) history.replaceState(null, "", location.pathname + location.search);
  return code;
}
