// A message of the person and the answer to it.

import { h, icon } from "../dom.js";
import { longText } from "../ui.js";
import { AnswerView } from "./answer.js";

export class TurnView {
  /** @param {(turn: TurnView) => void} onRetry sends this turn's message again. */
  constructor({ user, live = false, onRetry, onDecide }) {
    Object.assign(this, { user, onRetry, onDecide });
    this.element = h("div", { class: "turn" }, user && userBubble(user));
    this.answer = null;
    this.begin(live);
  }

  /** A fresh answer in the place of the old one. */
  begin(live) {
    const old = this.answer;
    this.answer = new AnswerView({ live, onRetry: this.user ? () => this.onRetry(this) : null, onDecide: this.onDecide });
    if (old) old.element.replaceWith(this.answer.element);
    else this.element.append(this.answer.element);
  }
}

function userBubble({ text, attachments = [] }) {
  const files = attachments.map((file) =>
    h("li", { class: "chip" }, file.data && file.media_type?.startsWith("image/") ? h("img", { src: `data:${file.media_type};base64,${file.data}`, alt: "" }) : icon("file"), h("span", { class: "chip-name" }, file.name ?? file.media_type)),
  );
  return h("article", { class: "user", "aria-label": "You" }, files.length > 0 && h("ul", { class: "chips" }, ...files), longText(h("div", { class: "bubble", dir: "auto" }), text));
}
