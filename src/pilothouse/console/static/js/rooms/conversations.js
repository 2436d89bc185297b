// All conversations: find, open, rename, export, delete.

import { getPage } from "../api.js";
import { conversationActions } from "../conversations.js";
import { h, icon, toggle } from "../dom.js";
import { exact, when } from "../format.js";
import { readConversation } from "../shapes.js";
import { emptyState, moreButton, problemNotice, skeleton } from "../ui.js";

export class ConversationsRoom {
  constructor(app) {
    Object.assign(this, { app, items: [], next: null, away: new AbortController() });
    this.title = h("h1", { class: "room-title", tabindex: -1 }, "Conversations");
    this.search = h("input", { type: "search", class: "field", id: "search", placeholder: "Search by title", autocomplete: "off", oninput: () => this.#draw() });
    this.list = h("ul", { class: "rows" });
    this.state = h("div", { class: "list-state" }, skeleton(5));
    this.more = moreButton(() => this.#load());
    const find = h("div", { class: "search" }, icon("search"), h("label", { class: "visually-hidden", for: "search" }, "Search by title"), this.search);
    const head = h("header", { class: "room-head" }, app.menuButton(), h("div", { class: "room-name" }, this.title));
    this.element = h("div", { class: "room" }, head, h("div", { class: "scroller" }, h("div", { class: "page" }, find, this.list, this.state, this.more)));
    app.setTitle("Conversations");
    this.#load();
  }

  entered() {
    this.title.focus();
  }

  leave() {
    this.away.abort();
  }

  async #load() {
    try {
      const page = await getPage("conversations", { limit: 50, cursor: this.next }, { signal: this.away.signal });
      this.items.push(...page.items.map(readConversation));
      this.next = page.next;
      this.#draw();
    } catch (problem) {
      if (!this.away.signal.aborted) this.state.replaceChildren(problemNotice(problem, () => this.#load()));
    }
  }

  #draw() {
    const wanted = this.search.value.trim().toLocaleLowerCase();
    const found = this.items.filter((item) => item.title.toLocaleLowerCase().includes(wanted));
    this.list.replaceChildren(...found.map((item) => this.#row(item)));
    toggle(this.more, this.next !== null);
    this.state.replaceChildren();
    if (found.length) return;
    const start = h("a", { class: "button primary", href: "#/chat" }, "Start a chat");
    const more = this.next ? "Nothing with that title so far; there are more to load." : "No conversation has that title.";
    this.state.append(
      this.items.length
        ? emptyState({ symbol: "search", title: "Nothing found", text: more })
        : emptyState({ symbol: "chat", title: "No conversations yet", text: "What you and your agents write to each other is kept here.", action: start }),
    );
  }

  #row(item) {
    const turns = item.turns === null ? null : `${item.turns} ${item.turns === 1 ? "turn" : "turns"}`;
    const facts = [item.agent, turns].filter(Boolean).join(", ");
    const changed = (conversation) => {
      if (conversation) Object.assign(item, conversation);
      this.#draw();
      this.app.refreshConversations();
    };
    const removed = () => {
      this.items = this.items.filter((other) => other !== item);
      this.search.focus();
    };
    const link = h("a", { class: "row-link", href: `#/chat/${item.id}` }, h("span", { class: "row-title", dir: "auto" }, item.title), h("span", { class: "row-facts" }, facts));
    const time = h("time", { class: "row-time", datetime: item.updatedAt, title: exact(item.updatedAt) }, when(item.updatedAt));
    return h("li", { class: "row" }, link, time, h("div", { class: "row-actions" }, ...conversationActions(item, { changed, removed })));
  }
}
