// Signing in: a token, checked by asking who it belongs to.

import { get } from "../api.js";
import { h, icon, toggle } from "../dom.js";
import { keep } from "../session.js";
import { notice } from "../ui.js";

const WORDS = {
  401: "The server does not accept this token. It may be mistyped, expired or revoked.",
  403: "This token is known, but it may not use the API.",
};

export class SignInRoom {
  /** @param {{onSignedIn: (me: object) => void, message?: string}} options */
  constructor({ onSignedIn, message = null }) {
    this.onSignedIn = onSignedIn;
    this.field = h("input", { id: "token", class: "field", type: "password", required: true, autocomplete: "current-password", spellcheck: "false", autocapitalize: "off" });
    this.remember = h("input", { id: "remember", type: "checkbox" });
    this.button = h("button", { type: "submit", class: "button primary block" }, "Sign in");
    this.problem = h("div", { class: "signin-problem" }, message && notice({ kind: "info", text: message }));
    const form = h(
      "form",
      { class: "signin-form", novalidate: true },
      h("label", { class: "field-label", for: "token" }, "Token"),
      this.field,
      h("p", { class: "hint" }, "An API key or a signed token. ", h("code", null, "pilothouse demo"), " prints a link that signs you in."),
      h("label", { class: "check" }, this.remember, h("span", null, "Remember on this device")),
      this.button,
      this.problem,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#try();
    });
    this.element = h("main", { class: "signin" }, h("div", { class: "signin-card" }, h("div", { class: "brand-mark" }, icon("wheel")), h("h1", null, "Pilothouse"), h("p", { class: "muted" }, "Sign in to talk to your agents and see their runs."), form));
  }

  entered() {
    this.field.focus();
  }

  leave() {}

  async #try() {
    const token = this.field.value.trim();
    if (!token) {
      this.#say("Enter a token.");
      return;
    }
    this.button.disabled = true;
    this.button.textContent = "Signing in…";
    try {
      const me = await get("me", { as: token });
      keep(token, this.remember.checked);
      this.onSignedIn(me);
    } catch (problem) {
      this.#say(WORDS[problem.status] ?? problem.detail ?? "Signing in did not work.");
    } finally {
      this.button.disabled = false;
      this.button.textContent = "Sign in";
    }
  }

  #say(text) {
    this.problem.replaceChildren(notice({ text }));
    toggle(this.problem, true);
    this.field.setAttribute("aria-invalid", "true");
    this.field.focus();
  }
}
