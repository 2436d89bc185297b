// One run: what it was, what it cost, and each step to scale; live while it runs.

import { get, send } from "../api.js";
import { h, icon, toggle } from "../dom.js";
import { follow } from "../follow.js";
import { cost, count, duration, exact } from "../format.js";
import { Timeline } from "../run/timeline.js";
import { readRun } from "../shapes.js";
import { badge, notice, problemNotice, skeleton, toast } from "../ui.js";

const SETTLE_MS = 250;
const TICK_MS = 500;
const TEXT = new Set(["text.delta", "reasoning.delta"]);

export class RunRoom {
  constructor(app, runId) {
    Object.assign(this, { app, runId, run: null, away: new AbortController() });
    this.title = h("h1", { class: "room-title", tabindex: -1 }, "Run");
    this.stopButton = h("button", { type: "button", class: "button small", hidden: true, onclick: () => this.#stop() }, h("span", { class: "stop-square" }), h("span", null, "Stop run"));
    this.summary = h("section", { class: "facts-card", "aria-label": "Summary" }, skeleton(3));
    this.trouble = h("div");
    this.timeline = new Timeline();
    const head = h("header", { class: "room-head" }, app.menuButton(), h("div", { class: "room-name" }, this.title, h("span", { class: "room-sub mono" }, runId)), h("div", { class: "room-actions" }, this.stopButton));
    this.element = h("div", { class: "room" }, head, h("div", { class: "scroller" }, h("div", { class: "page wide" }, this.summary, this.trouble, this.timeline.element)));
    app.setTitle("Run");
    this.#begin();
  }

  entered() {
    this.title.focus();
  }

  leave() {
    this.away.abort();
    clearInterval(this.ticker);
    clearTimeout(this.soon);
  }

  async #begin() {
    try {
      await this.#read();
    } catch (problem) {
      if (this.away.signal.aborted) return;
      if (problem.status === 404) this.app.notFound("This run does not exist, or it is not yours.");
      else this.summary.replaceChildren(problemNotice(problem, () => this.#begin()));
      return;
    }
    if (this.run.active) await this.#watch();
  }

  async #watch() {
    this.ticker = setInterval(() => this.timeline.draw(this.run), TICK_MS);
    const onEvent = (type, data) => {
      if (TEXT.has(type)) this.timeline.growText(data.step, type === "text.delta" ? data.text : "");
      else if (type === "step.restarted") this.timeline.forgetText(data.step);
      else this.#readSoon();
    };
    try {
      await follow({ runId: this.runId, signal: this.away.signal, onEvent });
      clearTimeout(this.soon);
      await this.#read();
    } catch (problem) {
      if (!this.away.signal.aborted) toast(problem.detail ?? "The run can't be followed any more.");
    } finally {
      clearInterval(this.ticker);
    }
  }

  #readSoon() {
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.#read().catch(() => {}), SETTLE_MS);
  }

  async #read() {
    this.run = readRun(await get(`runs/${encodeURIComponent(this.runId)}`, { signal: this.away.signal }));
    this.#draw();
  }

  async #stop() {
    this.stopButton.disabled = true;
    this.stopButton.lastChild.textContent = "Stopping…";
    try {
      await send("POST", `runs/${encodeURIComponent(this.runId)}/cancel`, {});
    } catch (problem) {
      toast(problem.detail ?? "The run could not be stopped.");
      this.stopButton.disabled = false;
      this.stopButton.lastChild.textContent = "Stop run";
    }
  }

  #draw() {
    const run = this.run;
    this.title.textContent = run.agent ?? "Run";
    this.app.setTitle(`Run of ${run.agent ?? run.id}`);
    toggle(this.stopButton, run.active);
    this.summary.replaceChildren(summaryHead(run), facts(run));
    this.trouble.replaceChildren(...troubles(run));
    this.timeline.draw(run);
  }
}

function summaryHead(run) {
  const link = run.conversationId && h("a", { class: "quiet-link", href: `#/chat/${run.conversationId}` }, icon("chat"), "Open conversation");
  return h("div", { class: "facts-head" }, badge(run.state), h("span", { class: "grow" }), link);
}

function facts(run) {
  const prompt = run.promptName && [run.promptName, run.promptVersion].filter(Boolean).join(" @ ");
  const wait = run.startedAt ? Date.parse(run.startedAt) - Date.parse(run.createdAt) : null;
  const list = [
    ["Model", run.model],
    ["Prompt", prompt],
    ["Kind", run.kind],
    ["Begun", exact(run.createdAt)],
    ["Took", run.ms === null ? null : duration(run.ms)],
    ["Waited in queue", wait > 200 ? duration(wait) : null],
    ["Tokens", run.inputTokens === null ? null : `${count(run.inputTokens)} in, ${count(run.outputTokens)} out`],
    ["From cache", run.cachedTokens ? `${count(run.cachedTokens)} tokens` : null],
    ["Cost", cost(run.cost) ?? (run.active ? null : "Price not known")],
    ["Attempt", run.attempt > 1 ? String(run.attempt) : null],
  ];
  return h("dl", { class: "facts" }, ...list.filter(([, value]) => value).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

function troubles(run) {
  const found = [];
  if (run.error) found.push(notice({ title: "The run failed", text: run.error.message ?? run.error.detail ?? "It did not say why.", code: run.error.code }));
  const cut = cutSentence(run.cut);
  if (cut) found.push(notice({ kind: "info", text: cut }));
  return found;
}

/** What of the history was left out so that it fits the model. */
function cutSentence(cut) {
  if (!cut?.messages) return null;
  const what = cut.messages === 1 ? "1 older message was" : `${count(cut.messages)} older messages were`;
  const size = cut.tokens ? ` (${count(cut.tokens)} tokens)` : "";
  return `${what}${size} left out of the history, so that it fits the model.${cut.kept ? ` ${count(cut.kept)} were kept.` : ""}`;
}
