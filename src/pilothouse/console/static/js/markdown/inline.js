// The text of one block to nodes: emphasis, code, links, breaks. What is not understood stays text.

import { h } from "../dom.js";

const SPECIAL = /[\\`*_~[!<\n]|https?:\/\//g;
const ESCAPED = /[!-/:-@[-`{-~]/;
const ADDRESS = /^(?:https?:\/\/|mailto:)[^\s<>]+$/i;
const BARE = /^https?:\/\/[^\s<>"'`]+/i;
const TAGS = { "***": ["strong", "em"], "**": ["strong"], __: ["strong"], "*": ["em"], _: ["em"], "~~": ["s"] };
const DEEPEST = 12;

/**
 * @param {string} text
 * @param {boolean} growing more is to come: what is opened at the end counts as closed there, so that no marks flicker.
 */
export function inline(text, growing = false, depth = 0) {
  return new Reader(text, growing, depth).read();
}

class Reader {
  constructor(text, growing, depth) {
    Object.assign(this, { text, growing, depth, at: 0, plain: "", nodes: [], unclosed: new Set() });
  }

  read() {
    while (this.at < this.text.length) {
      SPECIAL.lastIndex = this.at;
      const found = SPECIAL.exec(this.text);
      const stop = found ? found.index : this.text.length;
      this.plain += this.text.slice(this.at, stop);
      this.at = stop;
      if (found && !this.special(found[0])) {
        this.plain += this.text[this.at];
        this.at += 1;
      }
    }
    this.flush();
    return this.nodes;
  }

  special(mark) {
    if (mark === "\\") return this.escape();
    if (mark === "\n") return this.push(this.at + 1, h("br"));
    if (mark === "`") return this.code();
    if (mark === "[") return this.link(this.at);
    if (mark === "!") return this.text[this.at + 1] === "[" && this.link(this.at + 1);
    if (mark === "<") return this.angle();
    if (mark.length > 2) return this.bare();
    return this.emphasis(mark);
  }

  push(next, ...nodes) {
    this.flush();
    this.nodes.push(...nodes);
    this.at = next;
    return true;
  }

  flush() {
    if (this.plain) this.nodes.push(document.createTextNode(this.plain));
    this.plain = "";
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === "\n") return this.push(this.at + 2, h("br"));
    if (!next || !ESCAPED.test(next)) return false;
    this.plain += next;
    this.at += 2;
    return true;
  }

  code() {
    const mark = /^`+/.exec(this.text.slice(this.at))[0];
    const from = this.at + mark.length;
    let end = this.closing(mark, from, (at) => this.text[at - 1] !== "`" && this.text[at + mark.length] !== "`");
    if (end < 0 && this.growing && mark.length < 3 && from < this.text.length) end = this.text.length;
    if (end < 0) {
      this.plain += mark;
      this.at = from;
      return true;
    }
    const inner = this.text.slice(from, end).replace(/\n/g, " ");
    return this.push(end + mark.length, h("code", null, /^ .*\S.* $/.test(inner) ? inner.slice(1, -1) : inner));
  }

  emphasis(char) {
    const run = new RegExp(`^\\${char}+`).exec(this.text.slice(this.at))[0];
    const mark = run.length >= 3 && char === "*" ? "***" : run.slice(0, 2) in TAGS ? run.slice(0, 2) : run[0];
    const tags = TAGS[mark];
    const from = this.at + mark.length;
    const opens = /\S/.test(this.text[from] ?? "") && !(char === "_" && /[\p{L}\p{N}]/u.test(this.text[this.at - 1] ?? ""));
    if (!tags || !opens || run.length > 3 || this.depth >= DEEPEST) return this.skip(run);
    let end = this.closing(mark, from, (at) => this.closes(at, mark));
    if (end < 0 && this.growing && mark.length > 1) end = this.text.length;
    if (end < 0) return this.skip(run);
    const inner = inline(this.text.slice(from, end), this.growing && end === this.text.length, this.depth + 1);
    return this.push(end + mark.length, tags.reduceRight((children, tag) => [h(tag, null, ...children)], inner)[0]);
  }

  closes(at, mark) {
    const [char, after] = [mark[0], this.text[at + mark.length]];
    if (/\s/.test(this.text[at - 1])) return false;
    if (mark.length === 1 && this.text[at - 1] === char) return false;
    if (mark.length < 3 && after === char) return false;
    return !(char === "_" && /[\p{L}\p{N}]/u.test(after ?? ""));
  }

  skip(run) {
    this.plain += run;
    this.at += run.length;
    return true;
  }

  /** Where `mark` closes, at or after `from`; -1 if nowhere, which is remembered, so that no text takes quadratic time. */
  closing(mark, from, fits) {
    if (this.unclosed.has(mark)) return -1;
    for (let at = this.text.indexOf(mark, from); at >= 0; at = this.text.indexOf(mark, at + 1)) {
      if (at > from && this.text[at - 1] !== "\\" && fits(at)) return at;
    }
    this.unclosed.add(mark);
    return -1;
  }

  angle() {
    const end = this.text.indexOf(">", this.at);
    const address = end > 0 && end - this.at < 2048 ? this.text.slice(this.at + 1, end) : "";
    return ADDRESS.test(address) && this.push(end + 1, anchor(address, [address.replace(/^mailto:/i, "")]));
  }

  bare() {
    let address = BARE.exec(this.text.slice(this.at, this.at + 2048))?.[0].replace(/[.,:;!?*_~]+$/, "");
    while (address?.endsWith(")") && address.split(")").length > address.split("(").length) address = address.slice(0, -1);
    if (!address || !URL.canParse(address)) return false;
    return this.push(this.at + address.length, anchor(address, [address]));
  }

  link(open) {
    const middle = this.balanced(open, "[", "]");
    if (middle < 0) return false;
    const label = this.text.slice(open + 1, middle);
    const inner = () => (this.depth < DEEPEST ? inline(label, false, this.depth + 1) : [label]);
    if (this.text[middle + 1] !== "(") return false;
    const end = this.balanced(middle + 1, "(", ")");
    if (end < 0) return this.growing && this.push(this.text.length, ...inner());
    const target = this.text.slice(middle + 2, end).trim().replace(/\s+["'(].*$/s, "").replace(/^<(.*)>$/s, "$1");
    if (!ADDRESS.test(target)) return false;
    return this.push(end + 1, anchor(target, inner()));
  }

  balanced(from, open, close) {
    const key = open + close;
    if (this.unclosed.has(key)) return -1;
    let depth = 0;
    const last = Math.min(this.text.length, from + 4096);
    for (let at = from; at < last; at += 1) {
      if (this.text[at] === "\\") at += 1;
      else if (this.text[at] === open) depth += 1;
      else if (this.text[at] === close && --depth === 0) return at;
    }
    if (last === this.text.length && depth === 1) this.unclosed.add(key);
    return -1;
  }
}

/** A link that leaves the console: web and mail addresses only, and nothing of ours goes along. */
function anchor(address, children) {
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, ...children);
}
