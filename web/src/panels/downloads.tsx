// The shown query as a file. With a cookie these are links; a token of this tab goes with a request of the page's own.

import { useState } from "preact/hooks";
import { send, told } from "../api/client";
import { explorePath, type Query } from "../api/explore";
import { useWorkspace } from "../workspace";

const FORMATS = [
  { format: "csv", title: "CSV" },
  { format: "parquet", title: "Parquet" },
] as const;

export function Downloads({ query, what }: { query: Query; what: string }) {
  const { hasCookie } = useWorkspace();
  const [trouble, setTrouble] = useState("");
  return (
    <span class="downloads">
      {FORMATS.map(({ format, title }) => {
        const path = explorePath(query, format);
        const name = `usage-${query.from}-${query.to}.${format}`;
        const save = async (event: Event) => {
          if (hasCookie) return;
          event.preventDefault();
          setTrouble("");
          await saveAs(path, name).catch((error) => setTrouble(told(error)));
        };
        return (
          <a key={format} class="quiet button" href={path} download={name} onClick={save}>
            {title}
            <span class="unseen"> of {what}</span>
          </a>
        );
      })}
      {trouble && (
        <span class="notice" role="alert">
          {trouble}
        </span>
      )}
    </span>
  );
}

async function saveAs(path: string, name: string): Promise<void> {
  const content = await (await send(path, { headers: { Accept: "*/*" } })).blob();
  const address = URL.createObjectURL(content);
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  link.click();
  // The browser reads it a moment later.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
