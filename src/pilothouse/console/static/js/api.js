// The HTTP API: one function that asks, and one error that says what a person can do.

import { token } from "./session.js";

const BASE = new URL("../v1/", location.href);

/** What the server (or the network) said instead of an answer. `detail` is a sentence for a person. */
export class Problem extends Error {
  constructor({ status = 0, code = "unknown", detail, retryable = false, ...extra }) {
    super(detail);
    Object.assign(this, { name: "Problem", status, code, detail, retryable, extra });
  }
}

export const signals = new EventTarget();

/** A response that is fine; anything else is thrown as a Problem. Aborts pass through as they are. */
export async function ask(method, path, { body, headers = {}, signal, accept = "application/json", as = token() } = {}) {
  const options = { method, signal, credentials: "omit", cache: "no-store", referrerPolicy: "no-referrer" };
  options.headers = { Accept: accept, ...headers };
  if (as) options.headers.Authorization = `Bearer ${as}`;
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(new URL(path, BASE), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof TypeError && /header|ByteString/i.test(error.message)) {
      throw new Problem({ code: "malformed_token", detail: "This is not a token: it holds characters a token can't have." });
    }
    signals.dispatchEvent(new Event("unreachable"));
    throw new Problem({ code: "network", retryable: true, detail: "The server can't be reached. Check the connection and try again." });
  }
  signals.dispatchEvent(new Event("reachable"));
  if (response.ok) return response;
  const problem = await readProblem(response);
  if (problem.status === 401 && as && as === token()) signals.dispatchEvent(new Event("unauthenticated"));
  throw problem;
}

export async function get(path, options) {
  return (await ask("GET", path, options)).json();
}

export async function send(method, path, body, options) {
  const response = await ask(method, path, { body, ...options });
  return response.status === 204 || response.headers.get("Content-Length") === "0" ? null : response.json();
}

/** `path?a=1`, without the members that are empty. */
export function withQuery(path, query) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** A page of a list: `{items, next}`. */
export async function getPage(path, query, options) {
  const page = await get(withQuery(path, query), options);
  return Array.isArray(page) ? { items: page, next: null } : { items: page.items ?? [], next: page.next_cursor ?? null };
}

async function readProblem(response) {
  const fallback = {
    status: response.status,
    code: `http_${response.status}`,
    detail: `The server answered ${response.status} without saying why.`,
    retryable: response.status >= 500,
  };
  try {
    const json = await response.json();
    return new Problem({ ...fallback, ...json, detail: json.detail || json.title || fallback.detail });
  } catch {
    return new Problem(fallback);
  }
}
