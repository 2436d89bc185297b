// Keeps the end of the text in view until the reader scrolls away from it; then says that there is more.

import { h, icon, toggle } from "../dom.js";

const NEAR = 60;

export class Stick {
  constructor(scroller, content) {
    this.scroller = scroller;
    this.stuck = true;
    this.pill = h("button", { type: "button", class: "pill", hidden: true, onclick: () => this.toEnd(true) }, icon("down"), h("span", null, "New text"));
    this.last = 0;
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    scroller.addEventListener("wheel", (event) => event.deltaY < 0 && this.#release(), { passive: true });
    this.watch = new ResizeObserver(() => (this.stuck ? this.toEnd() : this.#offer()));
    this.watch.observe(content);
    this.watch.observe(scroller);
  }

  toEnd(smooth = false) {
    this.stuck = true;
    toggle(this.pill, false);
    const behavior = smooth && !matchMedia("(prefers-reduced-motion: reduce)").matches ? "smooth" : "instant";
    this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior });
    this.seen = this.scroller.scrollHeight;
  }

  stop() {
    this.watch.disconnect();
  }

  #release() {
    if (this.scroller.scrollHeight > this.scroller.clientHeight) this.stuck = false;
    this.seen = this.scroller.scrollHeight;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const up = scrollTop < this.last - 1;
    this.last = scrollTop;
    if (scrollHeight - scrollTop - clientHeight < NEAR) {
      this.stuck = this.stuck || !up;
      if (this.stuck) toggle(this.pill, false);
    } else if (up && this.stuck) this.#release();
  }

  #offer() {
    if (this.scroller.scrollHeight > (this.seen ?? 0)) toggle(this.pill, true);
  }
}
