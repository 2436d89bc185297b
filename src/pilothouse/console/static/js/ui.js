// Small pieces every room uses: dialogs, notices, empty states, skeletons, copying, downloads.

import { h, icon, iconButton } from "./dom.js";
import { count } from "./format.js";
import { stateWord } from "./shapes.js";

const LONG_TEXT = 20_000;
const LONGEST_SAID = 1000;

/** Tells screen readers, politely, at most one sentence at a time. */
export function announce(text) {
  const line = h("p", null, text.slice(0, LONGEST_SAID));
  document.getElementById("announcer").append(line);
  setTimeout(() => line.remove(), 8000);
}

/**
 * Text in `node`; of a very long one the beginning, and behind it a button that shows the next part in a node like it. (All
 * of it in one node would take a browser minutes to break into lines, if it is one long word.)
 */
export function longText(node, text) {
  const end = partEnd(text);
  node.textContent = text.slice(0, end);
  if (end === text.length) return [node];
  const rest = text.slice(end);
  const next = () => button.replaceWith(...longText(node.cloneNode(false), rest));
  const button = h("button", { type: "button", class: "button small more-text", onclick: next }, `Show more (${count(rest.length)} characters left)`);
  return [node, button];
}

/** Where the first part of a text ends: with a line, if one ends in its second half. */
function partEnd(text) {
  if (text.length <= LONG_TEXT) return text.length;
  const end = text.lastIndexOf("\n", LONG_TEXT - 1) + 1;
  if (end > LONG_TEXT / 2) return end;
  return /[\uD800-\uDBFF]/.test(text[LONG_TEXT - 1]) ? LONG_TEXT - 1 : LONG_TEXT;
}

export function toast(text) {
  const node = h("p", { class: "toast" }, text);
  document.getElementById("toasts").append(node);
  setTimeout(() => node.remove(), 5000);
}

export function copyButton(read, label = "Copy") {
  const button = iconButton("copy", label, async () => {
    try {
      await navigator.clipboard.writeText(read());
    } catch {
      copyOldWay(read());
    }
    button.replaceChildren(icon("check"));
    announce("Copied");
    setTimeout(() => button.replaceChildren(icon("copy")), 1600);
  });
  return button;
}

/** Pages served over plain http from another machine have no clipboard object. */
function copyOldWay(text) {
  const area = h("textarea", { class: "visually-hidden" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

export function download(name, text, type = "application/json") {
  const address = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A question in a dialog; resolves to whether it was confirmed. */
export function confirmDialog({ title, text, action, danger = false }) {
  const yes = h("button", { type: "button", class: danger ? "button danger" : "button primary" }, action);
  return openDialog({ title, body: [h("p", null, text)], yes, read: () => true });
}

/** Asks for a line of text; resolves to it, or to null. */
export function promptDialog({ title, label, value, action }) {
  const input = h("input", { type: "text", class: "field", id: "dialog-field", maxlength: 200, autocomplete: "off" });
  input.value = value;
  const yes = h("button", { type: "button", class: "button primary" }, action);
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    // Focus goes back to the button that asked; this Enter must not press it again.
    event.preventDefault();
    yes.click();
  });
  const body = [h("label", { class: "field-label", for: "dialog-field" }, label), input];
  return openDialog({ title, body, yes, read: () => input.value.trim() || null, ready: () => input.select() });
}

function openDialog({ title, body, yes, read, ready = () => {} }) {
  const { promise, resolve } = withResolvers();
  const heading = h("h2", { id: "dialog-title" }, title);
  const no = h("button", { type: "button", class: "button", onclick: () => dialog.close() }, "Cancel");
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": "dialog-title" }, heading, ...body, h("div", { class: "dialog-actions" }, no, yes));
  let answer = null;
  yes.addEventListener("click", () => {
    answer = read();
    dialog.close();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    dialog.remove();
    resolve(answer);
  });
  document.body.append(dialog);
  dialog.showModal();
  ready();
  return promise;
}

function withResolvers() {
  const made = {};
  made.promise = new Promise((resolve) => (made.resolve = resolve));
  return made;
}

/** A box that says what went wrong and what can be done; `actions` are `[label, function]`. */
export function notice({ kind = "error", title = null, text, actions = [], code = null }) {
  const buttons = actions.map(([label, onclick], index) => h("button", { type: "button", class: index ? "button small" : "button small primary", onclick }, label));
  return h(
    "div",
    { class: `notice ${kind}`, role: kind === "error" ? "alert" : "status" },
    icon(kind === "error" ? "alert" : "info"),
    h(
      "div",
      { class: "notice-body" },
      title && h("strong", null, title),
      h("p", null, text, code && h("code", { class: "code-tag" }, code)),
      buttons.length > 0 && h("div", { class: "notice-actions" }, ...buttons),
    ),
  );
}

export function problemNotice(problem, again = null) {
  const actions = again ? [["Try again", again]] : [];
  return notice({ text: problem.detail ?? "Something went wrong in the console.", code: problem.code ?? null, actions });
}

export function emptyState({ symbol, title, text, action = null }) {
  return h("div", { class: "empty" }, icon(symbol), h("h2", null, title), h("p", null, text), action);
}

export function skeleton(rows, kind = "line") {
  return h("div", { class: "skeletons", role: "status", "aria-label": "Loading" }, ...Array.from({ length: rows }, () => h("div", { class: `skeleton ${kind}` })));
}

export function badge(state) {
  return h("span", { class: `badge state-${state}` }, h("span", { class: "dot" }), stateWord(state));
}

/** "Load more" at the end of a list; hidden where there is no further page. */
export function moreButton(onclick) {
  const button = h("button", { type: "button", class: "button more", hidden: true }, "Load more");
  button.addEventListener("click", async () => {
    button.disabled = true;
    await onclick();
    button.disabled = false;
  });
  return button;
}
