// What went wrong, as a sentence with the next step.

import { Refusal, told } from "../api/client";

export function Trouble({ error }: { error: unknown }) {
  const cannotBeAsked = error instanceof Refusal && error.status === 422;
  return (
    <div class="notice" role="alert">
      <p>{told(error)}</p>
      {cannotBeAsked && (
        <button type="button" onClick={() => history.back()}>
          Go back
        </button>
      )}
    </div>
  );
}
