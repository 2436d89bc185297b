// One model request of an answer: its reasoning, its text, and the tools it asked for.

import { h, icon, toggle } from "../dom.js";
import { GrowingMarkdown } from "../markdown/markdown.js";
import { announce, longText } from "../ui.js";
import { Smooth } from "./smooth.js";

const LIVE_REASONING = 20_000;

export class StepView {
  constructor({ live }) {
    this.live = live;
    this.whole = false;
    this.source = "";
    this.thoughtLength = 0;
    this.prose = new GrowingMarkdown(live ? announce : undefined);
    this.smooth = new Smooth((text, finished) => this.prose.set(text, finished));
    this.thought = h("div", { class: "reasoning-text", dir: "auto" });
    this.thoughts = h("div", null, this.thought);
    this.label = h("span", null, "Reasoning");
    this.reasoning = h("details", { class: "reasoning", hidden: true }, h("summary", null, icon("spark"), this.label, icon("chevron")), this.thoughts);
    this.tools = h("div", { class: "tools" });
    this.element = h("section", { class: "step" }, this.reasoning, this.prose.element, this.tools);
  }

  addText(text) {
    this.#reasoned();
    this.source += text;
    this.smooth.add(text);
  }

  addReasoning(text) {
    toggle(this.reasoning, true);
    this.label.textContent = "Reasoning…";
    this.reasoning.classList.add("busy");
    // What is longer is shown when it is whole, on request.
    this.thoughtLength += text.length;
    if (this.thoughtLength <= LIVE_REASONING) this.thought.append(text);
  }

  /** Forgets the partial text: the step begins again. */
  withdraw() {
    this.source = "";
    this.smooth.clear();
    this.thought.replaceChildren();
    this.thoughts.replaceChildren(this.thought);
    this.thoughtLength = 0;
    toggle(this.reasoning, false);
  }

  /** The recorded text; it replaces whatever was streamed. */
  finish(text, reasoning) {
    this.whole = true;
    this.source = text;
    if (reasoning) this.thoughts.replaceChildren(...longText(this.thought, reasoning));
    toggle(this.reasoning, Boolean(reasoning) || this.thought.textContent !== "");
    this.#reasoned();
    this.smooth.finish(text);
    if (!this.live) this.smooth.flush();
  }

  close() {
    this.#reasoned();
    this.smooth.finish(this.source);
    if (!this.live) this.smooth.flush();
  }

  #reasoned() {
    this.label.textContent = "Reasoning";
    this.reasoning.classList.remove("busy");
  }
}
