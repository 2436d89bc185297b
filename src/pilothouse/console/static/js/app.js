// Starts the console: signs in, then shows the room the address names.

import { get, getPage, signals } from "./api.js";
import { h } from "./dom.js";
import { ChatRoom } from "./rooms/chat.js";
import { ConversationsRoom } from "./rooms/conversations.js";
import { RunRoom } from "./rooms/run.js";
import { RunsRoom } from "./rooms/runs.js";
import { LinkRoom, SignInRoom } from "./rooms/signin.js";
import { forget, keep, takeTokenFromAddress, token } from "./session.js";
import { Shell } from "./shell.js";
import { notice, skeleton, toast } from "./ui.js";

const root = document.getElementById("app");
let shell = null;

const ROUTES = [
  [/^#?\/?$/, () => new ChatRoom(shell)],
  [/^#\/chat$/, () => new ChatRoom(shell)],
  [/^#\/chat\/([^/?]+)$/, (id) => new ChatRoom(shell, decodeURIComponent(id))],
  [/^#\/conversations$/, () => new ConversationsRoom(shell)],
  [/^#\/runs(?:\?state=(\w*))?$/, (state) => new RunsRoom(shell, state)],
  [/^#\/runs\/([^/?]+)$/, (id) => new RunRoom(shell, decodeURIComponent(id))],
];

function route() {
  if (!shell) return;
  for (const [pattern, make] of ROUTES) {
    const found = pattern.exec(location.hash);
    if (!found) continue;
    shell.setTitle("");
    shell.show(make(...found.slice(1)));
    return;
  }
  shell.notFound("This address leads nowhere in the console.");
}

async function enter(me) {
  let agents = [];
  try {
    agents = (await getPage("agents", { limit: 100 })).items;
  } catch {
    // A token may be allowed to chat without seeing the agents: the server picks one.
  }
  shell?.dispose();
  shell = new Shell({ me, agents, onSignOut: () => leave("You are signed out.") });
  root.replaceChildren(shell.element);
  route();
}

function leave(message) {
  forget();
  shell?.dispose();
  shell = null;
  document.title = "Sign in · Pilothouse";
  const room = new SignInRoom({ onSignedIn: enter, message });
  root.replaceChildren(room.element);
  room.entered();
}

/**
 * A link may carry a token. It must not sign anybody in unseen, neither over another account nor where nobody is signed in:
 * what is typed then would belong to whoever made the link. Until the person agrees it is kept nowhere.
 */
async function takeLink() {
  const given = takeTokenFromAddress();
  if (!given || given === token()) return null;
  const [now, next] = await Promise.all([whoIs(token()), whoIs(given)]);
  if (!next) {
    if (now) toast("The link's token is not accepted. You are still signed in as before.");
    return now ? null : "The server does not accept the token of this link. It may be expired or revoked.";
  }
  const same = now && now.subject === next.subject && now.tenant === next.tenant;
  if (same || (await agrees({ now, next }))) keep(given, false);
  return null;
}

function agrees({ now, next }) {
  shell?.dispose();
  shell = null;
  document.title = "Sign in · Pilothouse";
  return new Promise((resolve) => {
    const room = new LinkRoom({ now, next, onAccept: () => resolve(true), onDecline: () => resolve(false) });
    root.replaceChildren(room.element);
    room.entered();
  });
}

/** Null where the token is not accepted; an empty one asks without. */
async function whoIs(someone) {
  if (someone === null) return null;
  return get("me", { as: someone }).catch(() => null);
}

async function start() {
  root.replaceChildren(skeleton(3));
  const refused = await takeLink();
  if (!token()) {
    // A server on one's own machine may let people in without one.
    const me = await whoIs("");
    if (me) await enter(me);
    else leave(refused);
    return;
  }
  try {
    await enter(await get("me"));
  } catch (problem) {
    if (problem.status === 401) leave("Your sign-in is no longer valid. Sign in again.");
    else root.replaceChildren(h("main", { class: "signin" }, notice({ text: problem.detail ?? "The console could not start.", actions: [["Try again", start]] })));
  }
}

signals.addEventListener("unauthenticated", () => shell && leave("Your sign-in is no longer valid. Sign in again."));
addEventListener("hashchange", () => (location.hash.startsWith("#token=") ? start() : route()));
start();
