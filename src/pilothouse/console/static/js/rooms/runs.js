// All runs, newest first, by state.

import { getPage } from "../api.js";
import { h, icon, iconButton, toggle } from "../dom.js";
import { cost, count, duration, exact, when } from "../format.js";
import { readRun, STATES, stateWord } from "../shapes.js";
import { badge, emptyState, moreButton, problemNotice, skeleton } from "../ui.js";

const AGAIN_MS = 4000;

export class RunsRoom {
  constructor(app, state = "") {
    Object.assign(this, { app, wanted: STATES.includes(state) ? state : "", items: [], next: null, away: new AbortController() });
    this.title = h("h1", { class: "room-title", tabindex: -1 }, "Runs");
    this.filter = h("nav", { class: "filters", "aria-label": "State" }, ...["", ...STATES].map((name) => this.#choice(name)));
    this.list = h("ul", { class: "rows" });
    this.state = h("div", { class: "list-state" }, skeleton(6));
    this.more = moreButton(() => this.#load());
    const head = h("header", { class: "room-head" }, app.menuButton(), h("div", { class: "room-name" }, this.title), h("div", { class: "room-actions" }, iconButton("again", "Refresh", () => this.#refresh())));
    this.element = h("div", { class: "room" }, head, h("div", { class: "scroller" }, h("div", { class: "page wide" }, this.filter, this.list, this.state, this.more)));
    app.setTitle("Runs");
    this.#load();
    this.timer = setInterval(() => !document.hidden && this.items.some((run) => run.active) && this.#refresh(), AGAIN_MS);
  }

  entered() {
    this.title.focus();
  }

  leave() {
    this.away.abort();
    clearInterval(this.timer);
  }

  conversationsChanged() {
    if (this.items.length) this.#draw();
  }

  #choice(name) {
    return h("a", { class: "filter", href: name ? `#/runs?state=${name}` : "#/runs", "aria-current": name === this.wanted ? "true" : null }, name ? stateWord(name) : "All");
  }

  async #load() {
    await this.#ask(this.next, (page) => this.items.push(...page));
  }

  /** The first page again; further pages stay as they are. */
  async #refresh() {
    await this.#ask(null, (page) => {
      const fresh = new Set(page.map((run) => run.id));
      this.items = [...page, ...this.items.filter((run) => !fresh.has(run.id))].filter((run) => fresh.has(run.id) || !run.active);
    });
  }

  async #ask(cursor, take) {
    try {
      const page = await getPage("runs", { state: this.wanted, limit: 30, cursor }, { signal: this.away.signal });
      const further = cursor !== null || this.items.length === 0;
      take(page.items.map(readRun));
      if (further) this.next = page.next;
      this.#draw();
    } catch (problem) {
      if (!this.away.signal.aborted) this.state.replaceChildren(problemNotice(problem, () => this.#load()));
    }
  }

  #draw() {
    const focused = document.activeElement?.closest?.("a")?.getAttribute("href");
    const titles = new Map(this.app.conversations.map((item) => [item.id, item.title]));
    this.list.replaceChildren(...this.items.map((run) => row(run, titles.get(run.conversationId))));
    if (focused) this.list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    toggle(this.more, this.next !== null);
    this.state.replaceChildren();
    if (this.items.length) return;
    const text = this.wanted ? `No run is in the state “${stateWord(this.wanted)}”.` : "Every answer, task and workflow appears here with its steps, times and cost.";
    this.state.append(emptyState({ symbol: "runs", title: this.wanted ? "Nothing here" : "No runs yet", text }));
  }
}

function row(run, title) {
  const facts = [title && run.agent, run.model, run.error?.message];
  const tokens = run.inputTokens === null ? null : `${count(run.inputTokens)} in, ${count(run.outputTokens)} out`;
  return h(
    "li",
    { class: "row run-row" },
    badge(run.state),
    h("a", { class: "row-link", href: `#/runs/${run.id}` }, h("span", { class: "row-title", dir: "auto" }, title ?? run.agent ?? run.id), h("span", { class: "row-facts" }, facts.filter(Boolean).join(" · "))),
    h("span", { class: "row-number" }, run.ms === null ? "" : duration(run.ms)),
    h("span", { class: "row-number wide-only" }, tokens ?? ""),
    h("span", { class: "row-number" }, cost(run.cost) ?? ""),
    h("time", { class: "row-time", datetime: run.createdAt, title: exact(run.createdAt) }, when(run.createdAt)),
    icon("chevron"),
  );
}
