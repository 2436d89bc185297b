// Server-sent events over fetch: EventSource can't send an Authorization header.

/** Yields `{id, type, data}`; data is parsed JSON. Ends with the stream; calls `onBytes` for every chunk, heartbeats too. */
export async function* readEvents(body, onBytes = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  // Pieces of a line that has not ended: joined once, however many there are.
  let pending = [];
  let endedInReturn = false;
  let event = { id: null, type: "message", data: [] };
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onBytes();
      if (value === "") continue;
      // A CR at the end of a chunk ends its line; an LF that comes next belongs to it.
      const lines = (endedInReturn && value.startsWith("\n") ? value.slice(1) : value).split(/\r\n|\n|\r/);
      endedInReturn = value.endsWith("\r");
      pending.push(lines.pop());
      if (lines.length) {
        const last = pending.pop();
        lines[0] = pending.join("") + lines[0];
        pending = [last];
      }
      for (const line of lines) {
        if (line !== "") {
          readLine(event, line);
          continue;
        }
        if (event.data.length) yield { ...event, data: JSON.parse(event.data.join("\n")) };
        event = { id: null, type: "message", data: [] };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function readLine(event, line) {
  const colon = line.indexOf(":");
  if (colon === 0) return;
  const field = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
  if (field === "data") event.data.push(value);
  else if (field === "event") event.type = value;
  else if (field === "id") event.id = value;
}
