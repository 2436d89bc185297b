// The steps of a run as bars on one time axis; each opens to what went in and came out.

import { h, icon, toggle } from "../dom.js";
import { cost, count, duration, pretty } from "../format.js";
import { GrowingMarkdown } from "../markdown/markdown.js";
import { stateWord } from "../shapes.js";
import { copyButton, longText } from "../ui.js";

const TICKS = 4;

export class Timeline {
  constructor() {
    this.rows = new Map();
    this.texts = new Map();
    this.axis = h("div", { class: "axis", "aria-hidden": "true" });
    this.list = h("ol", { class: "steps" });
    this.none = h("p", { class: "muted", hidden: true }, "No step has begun yet.");
    this.element = h("section", { class: "timeline", "aria-labelledby": "steps-title" }, h("div", { class: "timeline-head" }, h("h2", { id: "steps-title" }, "Steps"), this.axis), this.list, this.none);
  }

  draw(run) {
    const from = Date.parse(run.createdAt);
    const to = run.finishedAt ? Date.parse(run.finishedAt) : Date.now();
    const span = { from, length: Math.max(1, to - from), to };
    const steps = run.steps.map((step) => ({ ...step, ...times(step, span) }));
    for (const step of steps) {
      if (!this.rows.has(step.number)) this.#add(step.number);
      this.rows.get(step.number).draw(step, span);
    }
    this.axis.replaceChildren(...Array.from({ length: TICKS + 1 }, (_, index) => tick(index, span.length)));
    toggle(this.none, run.steps.length === 0);
  }

  /** Text of a step that is being written; shown until the server has recorded the step. */
  growText(step, text) {
    this.texts.set(step, (this.texts.get(step) ?? "") + text);
    this.#liveRow()?.showLive(this.texts.get(step));
  }

  forgetText(step) {
    this.texts.delete(step);
  }

  #liveRow() {
    return [...this.rows.values()].findLast((row) => row.kind === "model" && row.open);
  }

  #add(number) {
    const row = new Row();
    this.rows.set(number, row);
    this.list.append(row.element);
  }
}

class Row {
  constructor() {
    this.mark = h("span", { class: "step-mark" });
    this.name = h("span", { class: "step-name" });
    this.bar = h("span", { class: "bar" });
    this.first = h("span", { class: "first-token" });
    this.time = h("span", { class: "step-time" });
    this.body = h("div", { class: "step-body" });
    const track = h("span", { class: "track", "aria-hidden": "true" }, this.bar, this.first);
    this.details = h("details", { class: "step-row" }, h("summary", null, h("span", { class: "step-label" }, this.mark, this.name), track, this.time, icon("chevron")), this.body);
    this.element = h("li", null, this.details);
  }

  draw(step, span) {
    this.kind = step.kind;
    this.open = step.end === null;
    const end = step.end ?? span.to;
    const share = (time) => `${Math.min(100, Math.max(0, ((time - span.from) / span.length) * 100))}%`;
    this.bar.style.setProperty("--from", share(step.begin));
    this.bar.style.setProperty("--to", share(end));
    toggle(this.first, Boolean(step.first_token_ms));
    if (step.first_token_ms) this.first.style.setProperty("--at", share(step.begin + step.first_token_ms));
    this.time.textContent = this.open ? `${duration(end - step.begin)}…` : duration(end - step.begin);
    // What is below does not move with the clock; draw it only when it changed.
    const print = JSON.stringify(step);
    if (print === this.print) return;
    this.print = print;
    this.details.className = `step-row kind-${step.kind} state-${step.state}`;
    this.mark.replaceChildren(icon(step.kind === "tool" ? "tool" : "spark"));
    this.name.textContent = step.name ?? step.kind;
    this.body.replaceChildren(...this.#content(step));
  }

  showLive(text) {
    this.liveText = text;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (!this.open) return;
      this.live ??= new GrowingMarkdown();
      this.live.set(this.liveText);
      if (!this.live.element.isConnected) this.body.append(this.live.element);
    });
  }

  #content(step) {
    const facts = [
      ["State", stateWord(step.state)],
      ["First token", step.first_token_ms ? duration(step.first_token_ms) : null],
      ["Tokens", step.input_tokens === null || step.input_tokens === undefined ? null : `${count(step.input_tokens)} in, ${count(step.output_tokens)} out`],
      ["Cost", cost(step.cost_usd)],
      ["Attempt", step.attempt > 1 ? String(step.attempt) : null],
      ["Error", step.error_code],
    ];
    this.live = null;
    return [
      h("dl", { class: "facts small" }, ...facts.filter(([, value]) => value).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value)))),
      part("Reasoning", step.reasoning, (text) => longText(h("p", { class: "reasoning-text", dir: "auto" }), text)),
      part("Arguments", step.arguments, code),
      part("Result", step.result, code),
      part("Text", step.text, prose),
    ].filter(Boolean);
  }
}

function part(title, value, make) {
  if (value === null || value === undefined || value === "") return null;
  const raw = typeof value === "string" ? value : pretty(value);
  return h("div", { class: "step-part" }, h("div", { class: "tool-head" }, h("span", null, title), copyButton(() => raw, `Copy ${title.toLowerCase()}`)), make(value));
}

function code(value) {
  return longText(h("pre", { tabindex: 0, dir: "auto" }), pretty(value));
}

function prose(text) {
  const whole = new GrowingMarkdown();
  whole.set(text, true);
  return whole.element;
}

function times(step, span) {
  const begin = step.started_at ? Date.parse(step.started_at) : span.from;
  if (step.finished_at) return { begin, end: Date.parse(step.finished_at) };
  return { begin, end: step.duration_ms === null || step.duration_ms === undefined ? null : begin + step.duration_ms };
}

function tick(index, length) {
  const node = h("span", { class: "tick" }, duration((length * index) / TICKS));
  node.style.setProperty("--at", `${(index / TICKS) * 100}%`);
  return node;
}
