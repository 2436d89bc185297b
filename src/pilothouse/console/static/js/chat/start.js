// Opens the stream that creates a run; the same key each time, so that a second try can't make a second run.

import { ask } from "../api.js";

export function startRun(body) {
  const key = newKey();
  return (signal) => ask("POST", "chat/stream", { body, signal, accept: "text/event-stream", headers: { "Idempotency-Key": key } });
}

/** crypto.randomUUID is missing on plain http pages of other machines. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
