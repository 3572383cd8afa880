// What went wrong, as a sentence with the next step.

import { Refusal, told } from "../api/client";

export function Trouble({ error }: { error: unknown }) {
  const cannotBeAsked = error instanceof Refusal && [403, 422].includes(error.status);
  return (
    <div class="notice" role="alert">
      <p>{told(error)}</p>
      {cannotBeAsked && (
        <button type="button" onClick={goBack}>
          Go back
        </button>
      )}
    </div>
  );
}

// Who followed a link has nothing to go back to but the page as it begins.
function goBack(): void {
  if (history.length > 1) history.back();
  else location.assign(location.pathname);
}
