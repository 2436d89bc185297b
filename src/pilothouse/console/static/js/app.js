// Starts the console: signs in, then shows the room the address names.

import { get, getPage, signals } from "./api.js";
import { h } from "./dom.js";
import { ChatRoom } from "./rooms/chat.js";
import { ConversationsRoom } from "./rooms/conversations.js";
import { RunRoom } from "./rooms/run.js";
import { RunsRoom } from "./rooms/runs.js";
import { SignInRoom } from "./rooms/signin.js";
import { forget, keep, takeTokenFromAddress, token } from "./session.js";
import { Shell } from "./shell.js";
import { confirmDialog, notice, skeleton, toast } from "./ui.js";

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

/** A link may carry a token. It must not swap a person's account unseen, so a sign-in that works is only replaced on request. */
async function takeLink() {
  const given = takeTokenFromAddress();
  if (!given || given === token()) return;
  const [now, next] = await Promise.all([whoIs(token()), whoIs(given)]);
  if (now && !next) {
    toast("The link's token is not accepted. You are still signed in as before.");
    return;
  }
  const other = now && (now.subject !== next.subject || now.tenant !== next.tenant);
  const text = `You are signed in as ${now?.subject}. This link signs in as ${next?.subject}.`;
  if (other && !(await confirmDialog({ title: "Sign in as someone else?", text, action: "Sign in" }))) return;
  keep(given, false);
}

/** Null where the token is not accepted; an empty one asks without. */
async function whoIs(someone) {
  if (someone === null) return null;
  return get("me", { as: someone }).catch(() => null);
}

async function start() {
  root.replaceChildren(skeleton(3));
  await takeLink();
  if (!token()) {
    // A server on one's own machine may let people in without one.
    const me = await whoIs("");
    if (me) await enter(me);
    else leave(null);
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
