// One run's answer, drawn from its events: live, resumed and past answers all come this way.

import { h, icon, toggle } from "../dom.js";
import { cost, count, duration } from "../format.js";
import { announce, copyButton, notice } from "../ui.js";
import { StepView } from "./step.js";
import { ToolCard } from "./toolcard.js";

const NOTES = {
  sending: "Sending",
  queued: "Waiting for its turn",
  thinking: "Thinking",
  waiting: "Waiting for a person's approval",
  stopping: "Stopping",
  lost: "Connection lost. Reconnecting",
};

export class AnswerView {
  /**
   * @param {object} options
   * @param {boolean} [options.live] it is happening now: text comes smoothly and is announced.
   * @param {() => void} [options.onRetry] sends the message again; offered where that can help.
   * @param {(runId: string, callId: string, approve: boolean, seen: object) => Promise<void>} [options.onDecide]
   */
  constructor({ live = false, onRetry = null, onDecide = null } = {}) {
    Object.assign(this, { live, onRetry, onDecide, runId: null, steps: new Map(), cards: [], over: false, usage: null, cost: null });
    this.began = performance.now();
    this.body = h("div", { class: "answer-body" });
    this.note = h("p", { class: "answer-note", hidden: true }, h("span", { class: "pulse" }), h("span", { class: "note-text" }));
    this.end = h("div", { class: "answer-end" });
    this.foot = h("footer", { class: "answer-foot", hidden: true });
    this.element = h("article", { class: "answer", "aria-label": "Answer" }, h("div", { class: "avatar" }, icon("wheel")), h("div", { class: "answer-main" }, this.body, this.note, this.end, this.foot));
    if (live) this.say("sending");
  }

  apply(type, data) {
    this.runId = data.run_id ?? this.runId;
    const handler = this[HANDLERS[type]];
    if (handler) handler.call(this, data);
  }

  queued() {
    this.say("queued");
  }

  started() {
    this.say("thinking");
  }

  stepStarted(data) {
    this.#step(data.step);
    this.say("thinking");
  }

  text(data) {
    this.say(null);
    this.#step(data.step).addText(data.text);
  }

  reasoning(data) {
    this.say(null);
    this.#step(data.step).addReasoning(data.text);
  }

  restarted(data) {
    this.#step(data.step).withdraw();
    this.say("thinking");
  }

  message(data) {
    const step = this.#step(data.step);
    step.finish(data.text ?? "", data.reasoning ?? "");
    for (const call of data.tool_calls ?? []) this.#addCard(step, call);
    this.say(null);
  }

  toolStarted(data) {
    this.#card(data).started(data);
    this.say(null);
  }

  toolFinished(data) {
    const card = this.#card(data);
    card.finished(data);
    if (this.live && data.status !== "ok") announce(`Tool ${card.name} failed`);
    if (this.live) this.say("thinking");
  }

  approval(data) {
    this.#card(data).waiting(data);
    this.say("waiting");
    if (this.live) announce(`The tool ${data.name} waits for your approval.`);
  }

  /** The tool steps of a past run's record: how the calls ended, and how long they took. */
  recorded(steps) {
    const left = [...this.cards];
    for (const step of steps) {
      const at = left.findIndex((card) => (step.call_id ? card.callId === step.call_id : card.name === step.name));
      if (at >= 0) left.splice(at, 1)[0].recorded(step);
    }
  }

  completed(data) {
    const last = [...this.steps.values()].at(-1);
    if (data.text && (!last || !last.whole)) (last ?? this.#step(1)).finish(data.text, "");
    this.usage = data.usage ?? null;
    this.cost = data.cost_usd ?? null;
    this.#over("cancelled");
    const end = () => announce("The answer is complete.");
    if (this.live) [...this.steps.values()].at(-1)?.smooth.afterwards(end);
  }

  failed(data) {
    this.#over("cancelled");
    const error = data.error ?? {};
    const actions = this.onRetry && error.retryable !== false ? [["Try again", this.onRetry]] : [];
    this.end.append(notice({ title: "The answer could not be finished", text: error.message ?? error.detail ?? "The run failed.", code: error.code, actions }));
  }

  cancelled(data) {
    this.#over("cancelled");
    this.end.append(h("p", { class: "stopped" }, icon("info"), stoppedSentence(data.took_effect ?? [])));
    if (this.live) announce("Stopped.");
  }

  /** The state line under the text; null hides it. */
  say(note) {
    if (this.over || (this.stopping && note !== "lost")) return;
    this.noted = note;
    toggle(this.note, note !== null);
    this.note.lastChild.textContent = note ? `${NOTES[note]}…` : "";
  }

  /** The person asked to stop; stays shown until the run says how it ended. */
  stopRequested(yes) {
    this.stopping = false;
    this.say(yes ? "stopping" : null);
    this.stopping = yes;
  }

  lost(isLost) {
    if (isLost) {
      this.before = this.noted === "lost" ? this.before : this.noted;
      this.say("lost");
    } else if (this.noted === "lost") this.say(this.stopping ? "stopping" : this.before);
  }

  /** Something other than the run's own end: a refusal, say. */
  refuse(node) {
    this.#over("cancelled");
    this.end.replaceChildren(node);
    this.foot.hidden = true;
  }

  /** Times and links, known once the run is over. */
  footer({ ms = performance.now() - this.began } = {}) {
    if (!this.runId) return;
    const usage = this.usage;
    const tokens = usage?.input_tokens !== undefined && usage?.input_tokens !== null;
    const parts = [
      duration(ms),
      tokens && `${count(usage.input_tokens)} in, ${count(usage.output_tokens)} out`,
      cost(this.cost),
    ].filter(Boolean);
    this.foot.replaceChildren(
      copyButton(() => this.plainText(), "Copy answer"),
      ...parts.map((part) => h("span", null, part)),
      h("a", { href: `#/runs/${this.runId}`, "aria-label": "Details of this run" }, "Details"),
    );
    toggle(this.foot, true);
  }

  plainText() {
    return [...this.steps.values()].map((step) => step.source).filter(Boolean).join("\n\n");
  }

  #step(number) {
    if (!this.steps.has(number)) {
      const step = new StepView({ live: this.live });
      this.steps.set(number, step);
      this.body.append(step.element);
    }
    return this.steps.get(number);
  }

  #card(data) {
    return this.cards.findLast((card) => card.callId === data.call_id) ?? this.#addCard([...this.steps.values()].at(-1) ?? this.#step(data.step ?? 1), data);
  }

  #addCard(step, call) {
    const decide = this.onDecide && ((callId, approve, seen) => this.onDecide(this.runId, callId, approve, seen));
    const card = new ToolCard(call, decide);
    this.cards.push(card);
    step.tools.append(card.element);
    return card;
  }

  #over(word) {
    for (const card of this.cards) card.settle(word);
    for (const step of this.steps.values()) step.close();
    this.stopping = false;
    this.say(null);
    this.over = true;
    this.footer();
  }
}

/** What changed something although the run was stopped, and what may have. */
function stoppedSentence(effects) {
  const names = (wanted) => effects.filter((item) => (item.status === "in_doubt") === wanted).map((item) => item.tool).join(", ");
  const [sure, unsure] = [names(false), names(true)];
  return ["Stopped.", sure && `Took effect before: ${sure}.`, unsure && `May have taken effect: ${unsure}.`].filter(Boolean).join(" ");
}

const HANDLERS = {
  "run.queued": "queued",
  "run.started": "started",
  "step.started": "stepStarted",
  "text.delta": "text",
  "reasoning.delta": "reasoning",
  "step.restarted": "restarted",
  message: "message",
  "tool.started": "toolStarted",
  "tool.finished": "toolFinished",
  "approval.requested": "approval",
  "run.completed": "completed",
  "run.failed": "failed",
  "run.cancelled": "cancelled",
};
