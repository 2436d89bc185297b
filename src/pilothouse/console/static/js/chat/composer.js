// The message box: text, attachments, send and stop.

import { h, icon, iconButton, toggle } from "../dom.js";
import { bytes } from "../format.js";
import { toast } from "../ui.js";

const LIMIT = 10_000;
const SHOW_COUNT_FROM = 9_000;
const TYPES = ["image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf", "text/plain", "text/markdown", "text/csv"];
const LARGEST = 5 * 1024 * 1024;

export class Composer {
  /**
   * @param {object} options
   * @param {(message: {text: string, attachments: object[]}) => void} options.onSend
   * @param {() => void} options.onStop
   * @param {Node | null} options.extra stands left of the buttons, such as an agent picker.
   */
  constructor({ onSend, onStop, extra = null }) {
    this.onSend = onSend;
    this.files = [];
    this.text = h("textarea", { id: "message", rows: 1, placeholder: "Write a message", "aria-describedby": "message-hint", dir: "auto", autocomplete: "off" });
    this.count = h("span", { class: "count", role: "status", hidden: true });
    this.chips = h("ul", { class: "chips", hidden: true, "aria-label": "Attachments" });
    this.picker = h("input", { type: "file", accept: TYPES.join(","), multiple: true, hidden: true, tabindex: -1, "aria-hidden": "true" });
    this.send = h("button", { type: "submit", class: "round-button", "aria-label": "Send", title: "Send (Enter)", disabled: true }, icon("up"));
    this.stop = h("button", { type: "button", class: "round-button stop", "aria-label": "Stop", title: "Stop (Escape)", hidden: true, onclick: onStop }, h("span", { class: "stop-square" }), h("span", null, "Stop"));
    const attach = iconButton("clip", "Attach files", () => this.picker.click());
    this.element = h(
      "form",
      { class: "composer", "aria-label": "New message" },
      h("label", { class: "visually-hidden", for: "message" }, "Message"),
      this.chips,
      this.text,
      h("div", { class: "composer-bar" }, attach, extra, h("span", { class: "grow" }), this.count, this.stop, this.send),
      this.picker,
      h("p", { id: "message-hint", class: "visually-hidden" }, "Enter sends, Shift and Enter make a new line, Escape stops an answer."),
    );
    this.#listen();
  }

  focus() {
    this.text.focus({ preventScroll: true });
  }

  /** @param {"idle" | "running" | "stopping"} state */
  setState(state) {
    toggle(this.stop, state !== "idle");
    this.stop.disabled = state === "stopping";
    this.stop.lastChild.textContent = state === "stopping" ? "Stopping…" : "Stop";
    this.busy = state !== "idle";
    this.#changed();
  }

  /** Puts a message back that could not be sent. */
  restore({ text, attachments }) {
    if (this.text.value.trim() === "") this.text.value = text;
    if (!this.files.length) this.files = [...attachments];
    this.#changed();
    this.focus();
  }

  #listen() {
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.text.addEventListener("input", () => this.#changed());
    this.text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
    this.text.addEventListener("paste", (event) => {
      if (event.clipboardData?.files.length) this.#take(event.clipboardData.files, event);
    });
    this.picker.addEventListener("change", () => {
      this.#take(this.picker.files);
      this.picker.value = "";
    });
    for (const name of ["dragover", "dragleave", "drop"]) {
      this.element.addEventListener(name, (event) => this.#drag(event));
    }
  }

  #drag(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    this.element.classList.toggle("dropping", event.type === "dragover");
    if (event.type === "drop") this.#take(event.dataTransfer.files);
  }

  #submit() {
    if (this.send.disabled) return;
    const message = { text: this.text.value.trim(), attachments: this.files };
    this.text.value = "";
    this.files = [];
    this.#changed();
    this.onSend(message);
  }

  #changed() {
    const length = this.text.value.length;
    const over = length > LIMIT;
    toggle(this.count, length >= SHOW_COUNT_FROM);
    this.count.textContent = `${length.toLocaleString("en")} / ${LIMIT.toLocaleString("en")}`;
    this.count.classList.toggle("over", over);
    const empty = this.text.value.trim() === "";
    this.send.disabled = empty || over;
    toggle(this.send, !this.busy || !empty);
    this.text.style.height = "auto";
    this.text.style.height = `${Math.min(this.text.scrollHeight, 240)}px`;
    this.#drawChips();
  }

  #drawChips() {
    toggle(this.chips, this.files.length > 0);
    this.chips.replaceChildren(
      ...this.files.map((file) =>
        h(
          "li",
          { class: "chip" },
          file.media_type.startsWith("image/") ? h("img", { src: `data:${file.media_type};base64,${file.data}`, alt: "" }) : icon("file"),
          h("span", { class: "chip-name" }, file.name),
          h("span", { class: "muted" }, bytes(file.size)),
          iconButton("close", `Remove ${file.name}`, () => this.#remove(file)),
        ),
      ),
    );
  }

  #remove(file) {
    this.files = this.files.filter((other) => other !== file);
    this.#changed();
    this.focus();
  }

  async #take(list, event) {
    event?.preventDefault();
    for (const file of list) {
      if (!TYPES.includes(file.type)) toast(`${file.name} can't be attached: images, PDF and text can.`);
      else if (file.size > LARGEST) toast(`${file.name} is larger than ${bytes(LARGEST)}.`);
      else this.files = [...this.files, { name: file.name, media_type: file.type, size: file.size, data: await base64(file) }];
    }
    this.#changed();
    this.focus();
  }
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
