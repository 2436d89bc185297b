// One tool call as a quiet card: what was asked, what came back, how long it took.

import { h, icon, toggle } from "../dom.js";
import { brief, duration, pretty } from "../format.js";
import { copyButton, longText, toast } from "../ui.js";

const WORDS = {
  asked: "Asked for",
  running: "Running",
  waiting: "Waiting for approval",
  allowed: "Allowed",
  declined: "Declined",
  ok: "Done",
  error: "Failed",
  cancelled: "Stopped",
  in_doubt: "In doubt",
};

const RECORDED = { completed: "ok", failed: "error", cancelled: "cancelled", in_doubt: "in_doubt", denied: "declined" };

export class ToolCard {
  /** @param {(callId: string, approve: boolean, seen: object) => Promise<void>} [onDecide] answers a call that waits for a person. */
  constructor({ call_id: callId, name, arguments: given }, onDecide) {
    this.onDecide = onDecide;
    this.callId = callId;
    this.name = name;
    this.status = h("span", { class: "tool-status" });
    this.time = h("span", { class: "tool-time" });
    this.preview = h("span", { class: "tool-brief" });
    this.mark = h("span", { class: "tool-mark" }, icon("tool"));
    const summary = h("summary", null, this.mark, h("span", { class: "tool-name" }, name), this.preview, this.status, this.time, icon("chevron"));
    this.given = section("Arguments");
    this.result = section("Result");
    this.error = h("p", { class: "tool-error", hidden: true });
    this.element = h("details", { class: "tool" }, summary, h("div", { class: "tool-body" }, this.given.element, this.error, this.result.element));
    this.#say("asked");
    this.#arguments(given);
  }

  started({ arguments: given, effect }) {
    if (given !== undefined) this.#arguments(given);
    if (effect) this.element.title = `Effect: ${effect}`;
    this.#say("running");
    toggle(this.result.element, false);
    toggle(this.error, false);
  }

  /** A person has to say yes or no before it runs. */
  waiting({ reason, step, arguments_hash: hash, four_eyes: fourEyes } = {}) {
    this.#say("waiting");
    if (!this.onDecide) return;
    this.seen = hash ? { step, arguments_hash: hash } : {};
    if (fourEyes) return this.#askNobody("Another person has to decide about this call. You can't, because you started it.");
    const again = reason === "in_doubt";
    const question = again ? "It was interrupted, and may have taken effect already. Should it run again?" : `May ${this.name} run with these arguments?`;
    const button = (label, kind, approve) => h("button", { type: "button", class: `button small ${kind}`, onclick: () => this.#decide(approve) }, label);
    this.ask = h("div", { class: "tool-ask" }, h("p", null, question), button(again ? "Run it again" : "Allow", "primary", true), button("Decline", "", false));
    this.element.append(this.ask);
    this.element.open = true;
  }

  /** The signed-in person may not decide: say who may, and offer no buttons. */
  #askNobody(sentence) {
    this.ask?.remove();
    this.ask = h("div", { class: "tool-ask" }, h("p", { role: "status" }, sentence));
    this.element.append(this.ask);
    this.element.open = true;
  }

  async #decide(approve) {
    const buttons = this.ask.querySelectorAll("button");
    for (const button of buttons) button.disabled = true;
    try {
      await this.onDecide(this.callId, approve, this.seen);
      if (this.state === "waiting") this.#say(approve ? "allowed" : "declined");
    } catch (problem) {
      if (problem.status === 403) return this.#askNobody(`You may not decide about this call. ${problem.detail ?? ""}`.trim());
      toast(problem.detail ?? "That did not work.");
      for (const button of buttons) button.disabled = false;
    }
  }

  /** What the run's record knows of a call from the past. */
  recorded({ state, duration_ms: ms, error_code: code }) {
    this.#say(RECORDED[state] ?? this.state);
    this.time.textContent = duration(ms);
    if (this.state === "error" && code) this.status.textContent = `${WORDS.error}: ${code.replaceAll("_", " ")}`;
  }

  finished({ status, result, error, duration_ms: ms }) {
    this.#say(status in WORDS ? status : "ok");
    this.time.textContent = duration(ms);
    this.result.set(pretty(result));
    const said = typeof error === "string" ? error : error?.message;
    this.error.textContent = said ?? "";
    toggle(this.error, Boolean(said));
  }

  /** The run is over; what never came back is not running any more. */
  settle(word) {
    if (["asked", "running", "waiting", "allowed"].includes(this.state)) this.#say(word);
  }

  #say(state) {
    this.state = state;
    this.element.dataset.state = state;
    this.status.textContent = WORDS[state];
    if (state !== "waiting" && this.ask) {
      this.ask.remove();
      this.ask = null;
    }
  }

  #arguments(given) {
    this.preview.textContent = brief(given);
    this.given.set(pretty(given));
  }
}

function section(title) {
  let whole = "";
  const text = h("pre", { tabindex: 0, dir: "auto" });
  const holder = h("div", null, text);
  const head = h("div", { class: "tool-head" }, h("span", null, title), copyButton(() => whole, `Copy ${title.toLowerCase()}`));
  const element = h("div", { class: "tool-section", hidden: true }, head, holder);
  const set = (value) => {
    whole = value;
    holder.replaceChildren(...longText(text, value));
    toggle(element, value !== "" && value !== "{}");
  };
  return { element, set };
}
