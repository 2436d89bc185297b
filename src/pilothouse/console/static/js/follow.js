// Follows a run to its last event, whatever the network does in between.

import { ask } from "./api.js";
import { readEvents } from "./sse.js";

const LAST = new Set(["run.completed", "run.failed", "run.cancelled"]);
const SILENCE_MS = 45_000; // three heartbeats
const WAITS_MS = [300, 1000, 2000, 4000, 8000];
const SEND_TRIES = 3;

/**
 * Calls `onEvent(type, data)` for each event once and in order; resolves after the last one.
 *
 * @param {object} options
 * @param {() => Promise<Response>} [options.start] opens the stream that creates the run; safe to call again.
 * @param {string} [options.runId] the run, where it exists already: followed from its beginning.
 * @param {(live: boolean) => void} [options.onLink] the connection was lost or is back.
 * @throws {Problem} the server refuses; network failures are not thrown once the run exists.
 */
export async function follow({ start, runId, signal, onEvent, onLink = () => {} }) {
  let after = null;
  let failures = 0;
  for (;;) {
    const watch = new AbortController();
    const stop = () => watch.abort();
    signal.addEventListener("abort", stop);
    let timer = setTimeout(stop, SILENCE_MS);
    try {
      const response = runId ? await resume(runId, after, watch.signal) : await start(watch.signal);
      onLink(true);
      const alive = () => {
        clearTimeout(timer);
        timer = setTimeout(stop, SILENCE_MS);
      };
      for await (const { id, type, data } of readEvents(response.body, alive)) {
        failures = 0;
        runId = data.run_id ?? runId;
        if (id !== null && after !== null && !isLater(id, after)) continue;
        after = id ?? after;
        onEvent(type, data);
        if (LAST.has(type)) return;
      }
    } catch (error) {
      if (signal.aborted) throw error;
      const final = error.name === "Problem" && error.code !== "network" && !(runId && error.retryable);
      if (final || (!runId && failures + 1 >= SEND_TRIES)) throw error;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
    }
    onLink(false);
    await pause(WAITS_MS[Math.min(failures, WAITS_MS.length - 1)], signal);
    failures += 1;
  }
}

function resume(runId, after, signal) {
  const headers = after === null ? {} : { "Last-Event-ID": after };
  return ask("GET", `runs/${encodeURIComponent(runId)}/events`, { accept: "text/event-stream", headers, signal });
}

/** Ids are `<attempt>-<number>` and only grow. */
function isLater(id, than) {
  const [attempt, number] = id.split("-").map(Number);
  const [oldAttempt, oldNumber] = than.split("-").map(Number);
  return attempt > oldAttempt || (attempt === oldAttempt && number > oldNumber);
}

/** Waits, but no longer than until the network is back. */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const end = (finish) => () => {
      clearTimeout(timer);
      removeEventListener("online", back);
      signal.removeEventListener("abort", away);
      finish();
    };
    const back = end(resolve);
    const away = end(() => reject(new DOMException("Left", "AbortError")));
    const timer = setTimeout(back, ms);
    addEventListener("online", back);
    signal.addEventListener("abort", away);
  });
}
