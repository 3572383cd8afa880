// What stands where there are no numbers: the next step, with its command.

import { useWorkspace } from "../workspace";

/** No usage in this range, for these filters, or none at all. */
export function NoUsage() {
  const { view, catalogue, change } = useWorkspace();
  const { firstDay, lastDay } = catalogue.document;
  if (!firstDay || !lastDay) {
    return (
      <>
        <p>No usage is stored yet. Send a first event; it shows here within the hour:</p>
        <pre>
          <code>
            {`curl -X POST "$API/api/v1/ingest/requests:bulk" -H "Authorization: Bearer $TOKEN" \\
  -H "Content-Type: application/json" -d '[{"event_id": "first", "event_time": "${new Date().toISOString()}",
  "team": "me", "service": "try", "user": "me", "provider": "openai", "model": "gpt-4o",
  "input_tokens": 1000, "output_tokens": 20}]'`}
          </code>
        </pre>
      </>
    );
  }
  if (view.filters.length) {
    return (
      <>
        <p>No usage fits these filters on these days.</p>
        <button type="button" onClick={() => change({ filters: [] })}>
          Remove the filters
        </button>
      </>
    );
  }
  return (
    <>
      <p>
        No usage on these days. There is some from {firstDay} to {lastDay}.
      </p>
      <button type="button" onClick={() => change({ from: firstDay, to: lastDay, grain: "" })}>
        Show these days
      </button>
    </>
  );
}
