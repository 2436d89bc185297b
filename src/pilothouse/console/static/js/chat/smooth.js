// Text arrives in bursts and is shown at an even pace: each frame shows a share of what is waiting.

const SHARE = 0.12;
const AT_LEAST = 2;

export class Smooth {
  /** @param {(text: string, finished: boolean) => void} show draws the text so far. */
  constructor(show) {
    Object.assign(this, { show, target: "", shown: 0, finished: false, frame: null, then: null });
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
  }

  add(text) {
    this.target += text;
    this.#wake();
  }

  /** The text is whole now; what is still waiting is shown soon. */
  finish(text) {
    if (!text.startsWith(this.target.slice(0, this.shown))) this.shown = 0;
    this.target = text;
    this.finished = true;
    this.#wake();
  }

  /** Calls back once the whole text is shown. */
  afterwards(call) {
    if (this.finished && this.shown === this.target.length) call();
    else this.then = call;
  }

  /** Shows everything now. */
  flush() {
    this.shown = this.target.length;
    this.#draw();
  }

  clear() {
    Object.assign(this, { target: "", shown: 0, finished: false });
    this.flush();
  }

  #wake() {
    // A hidden page has no frames.
    if (document.hidden || this.calm.matches) this.flush();
    else this.frame ??= requestAnimationFrame(() => this.#step());
  }

  #step() {
    this.frame = null;
    const waiting = this.target.length - this.shown;
    const share = this.finished ? SHARE * 2 : SHARE;
    this.shown = Math.min(this.target.length, this.shown + Math.max(AT_LEAST, Math.ceil(waiting * share)));
    // Not between the halves of a surrogate pair.
    if (/[\uD800-\uDBFF]/.test(this.target[this.shown - 1] ?? "") && this.shown < this.target.length) this.shown += 1;
    this.#draw();
    if (this.shown < this.target.length) this.#wake();
  }

  #draw() {
    if (this.frame !== null) cancelAnimationFrame(this.frame);
    this.frame = null;
    const whole = this.finished && this.shown === this.target.length;
    this.show(this.target.slice(0, this.shown), whole);
    if (!whole) return;
    this.then?.();
    this.then = null;
  }
}
