// Signing in: a token, typed or brought by a link, checked by asking who it belongs to.

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
      h("p", { class: "hint" }, "An API key or a signed token. ", h("code", null, "pilothouse demo"), " prints a link that brings one."),
      h("label", { class: "check" }, this.remember, h("span", null, "Remember on this device")),
      this.button,
      this.problem,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#try();
    });
    this.element = card("Pilothouse", h("p", { class: "muted" }, "Sign in to talk to your agents and see their runs."), form);
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

/**
 * A link has brought a token. Whoever wrote the link may have put their own into it, to read what is typed in their
 * account; so a person says whether that is who they want to be, before anything is kept or shown.
 */
export class LinkRoom {
  /**
   * @param {object} options
   * @param {{subject: string, tenant: string}} options.next whose token it is.
   * @param {{subject: string} | null} options.now who is signed in.
   * @param {() => void} options.onAccept
   * @param {() => void} options.onDecline
   */
  constructor({ next, now, onAccept, onDecline }) {
    const name = () => h("bdi", null, next.subject);
    this.accept = h("button", { type: "button", class: "button primary block", onclick: onAccept }, h("span", { class: "clip" }, "Sign in as ", name()));
    const stay = now ? h("span", { class: "clip" }, "Stay signed in as ", h("bdi", null, now.subject)) : "Do not sign in";
    const decline = h("button", { type: "button", class: "button block", onclick: onDecline }, stay);
    const whose = h("p", null, "The link you opened is for the account ", h("strong", null, name()), next.tenant && [" of tenant ", h("strong", null, h("bdi", null, next.tenant))], ".");
    const why = h("p", { class: "muted" }, "What you write then belongs to this account, and its owner can read it. Continue only if you trust the link.");
    this.element = card("Sign in with this link?", whose, why, h("div", { class: "signin-choice" }, this.accept, decline));
  }

  entered() {
    this.accept.focus();
  }

  leave() {}
}

function card(title, ...content) {
  return h("main", { class: "signin" }, h("div", { class: "signin-card" }, h("div", { class: "brand-mark" }, icon("wheel")), h("h1", null, title), content));
}
