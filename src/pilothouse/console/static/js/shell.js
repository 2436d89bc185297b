// The frame around the rooms: side bar (a drawer on phones), theme, sign out, offline banner.

import { getPage, signals } from "./api.js";
import { h, icon, iconButton, toggle } from "./dom.js";
import { readConversation } from "./shapes.js";
import { emptyState } from "./ui.js";

const THEMES = [
  ["system", "screen", "Theme: as the system"],
  ["light", "sun", "Theme: light"],
  ["dark", "moon", "Theme: dark"],
];
const NARROW = matchMedia("(max-width: 760px)");

export class Shell {
  constructor({ me, agents, onSignOut }) {
    Object.assign(this, { me, agents, room: null, conversations: [] });
    this.recent = h("ul", { class: "recent" });
    this.side = this.#sideBar(onSignOut);
    this.offline = h("p", { class: "offline", role: "status", hidden: true }, "No connection to the server. What you see may be old.");
    this.main = h("main", { class: "main", id: "main" });
    this.shade = h("div", { class: "shade", hidden: true, onclick: () => this.drawer(false) });
    const skip = h("button", { type: "button", class: "skip-link", onclick: () => this.room?.entered() }, "Skip to content");
    this.element = h("div", { class: "shell" }, skip, this.side, this.shade, h("div", { class: "stage" }, this.offline, this.main));
    this.#listen();
    this.drawer(false);
    this.refreshConversations();
  }

  show(room) {
    this.room?.leave();
    this.room = room;
    this.main.replaceChildren(room.element);
    this.drawer(false);
    this.markPlace();
    room.entered();
  }

  dispose() {
    this.room?.leave();
    this.gone.abort();
  }

  menuButton() {
    return iconButton("menu", "Menu", () => this.drawer(true), { class: "icon-button menu-button", "aria-controls": "side" });
  }

  setTitle(title) {
    document.title = title ? `${title} · Pilothouse` : "Pilothouse";
  }

  go(hash) {
    location.hash = hash;
  }

  /** Changes the address without leaving the room. */
  replace(hash) {
    history.replaceState(null, "", hash);
    this.markPlace();
  }

  notFound(text) {
    const home = h("a", { class: "button primary", href: "#/chat" }, "Start a chat");
    const title = h("h1", { class: "room-title", tabindex: -1 }, "Not found");
    const head = h("header", { class: "room-head" }, this.menuButton(), h("div", { class: "room-name" }, title));
    const element = h("div", { class: "room" }, head, h("div", { class: "scroller" }, emptyState({ symbol: "search", title: "There is nothing here", text, action: home })));
    this.setTitle("Not found");
    this.show({ element, entered: () => title.focus(), leave: () => {} });
  }

  async refreshConversations() {
    try {
      const page = await getPage("conversations", { limit: 30 });
      this.conversations = page.items.map(readConversation);
    } catch {
      return; // The side bar keeps what it has; the room says what is wrong.
    }
    this.recent.replaceChildren(...this.conversations.map((item) => h("li", null, h("a", { href: `#/chat/${item.id}`, dir: "auto", title: item.title }, item.title))));
    this.markPlace();
    this.room?.conversationsChanged?.(this.conversations);
  }

  markPlace() {
    const here = (location.hash || "#/chat").split("?")[0];
    for (const link of this.side.querySelectorAll("a")) {
      const at = link.getAttribute("href");
      const inside = at === here || (at === "#/runs" && here.startsWith("#/runs/")) || (at === "#/chat" && here === "#/");
      if (inside) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  drawer(open) {
    const narrow = NARROW.matches;
    this.side.classList.toggle("open", open && narrow);
    this.side.inert = narrow && !open;
    if (this.main.parentElement) this.main.parentElement.inert = narrow && open;
    toggle(this.shade, narrow && open);
    if (open && narrow) this.side.querySelector(".close-button").focus();
    else if (this.drawerOpen) this.main.querySelector(".menu-button")?.focus();
    this.drawerOpen = open && narrow;
  }

  #sideBar(onSignOut) {
    const link = (symbol, text, href, extra = "") => h("a", { class: `side-link ${extra}`, href }, icon(symbol), h("span", null, text));
    const close = iconButton("close", "Close menu", () => this.drawer(false), { class: "icon-button close-button" });
    const who = h("div", { class: "who" }, h("span", { class: "who-name", title: this.me.subject }, this.me.subject ?? "Signed in"), h("span", { class: "who-tenant" }, this.me.tenant ?? ""));
    return h(
      "aside",
      { class: "side", id: "side", "aria-label": "Navigation" },
      h("div", { class: "brand" }, icon("wheel"), h("span", null, "Pilothouse"), close),
      h("nav", { class: "side-nav" }, link("plus", "New chat", "#/chat", "new-chat"), link("chat", "Conversations", "#/conversations"), link("runs", "Runs", "#/runs")),
      h("nav", { class: "side-recent", "aria-labelledby": "recent-title" }, h("h2", { id: "recent-title" }, "Recent"), this.recent),
      h("div", { class: "side-foot" }, who, themeButton(), iconButton("leave", "Sign out", onSignOut)),
    );
  }

  #listen() {
    this.gone = new AbortController();
    const options = { signal: this.gone.signal };
    const down = () => toggle(this.offline, true);
    addEventListener("offline", down, options);
    addEventListener("online", () => toggle(this.offline, false), options);
    signals.addEventListener("unreachable", down, options);
    signals.addEventListener("reachable", () => toggle(this.offline, false), options);
    NARROW.addEventListener("change", () => this.drawer(false), options);
    const keys = (event) => {
      if (event.key !== "Escape" || event.isComposing || document.querySelector("dialog[open]")) return;
      if (this.drawerOpen) this.drawer(false);
      else this.room?.escape?.();
    };
    addEventListener("keydown", keys, options);
  }
}

function themeButton() {
  const root = document.documentElement;
  let at = Math.max(0, THEMES.findIndex(([name]) => name === root.dataset.theme));
  const button = iconButton(THEMES[at][1], THEMES[at][2], () => {
    at = (at + 1) % THEMES.length;
    const [name, symbol, label] = THEMES[at];
    if (name === "system") delete root.dataset.theme;
    else root.dataset.theme = name;
    remember(name);
    button.replaceChildren(icon(symbol));
    button.setAttribute("aria-label", label);
    button.title = label;
  });
  return button;
}

function remember(theme) {
  try {
    if (theme === "system") localStorage.removeItem("pilothouse.theme");
    else localStorage.setItem("pilothouse.theme", theme);
  } catch {
    // Storage is switched off: the choice lasts as long as the page.
  }
}
