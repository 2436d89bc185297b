// The text of one block to nodes: emphasis, code, links, breaks. What is not understood stays text.
//
// Linear in the length of the text: what closes what is found once for the whole text (`pairs`, `ticks`), and what was
// searched for in vain is not searched for again (`unclosed`).

import { h } from "../dom.js";

const SPECIAL = /[\\`*_~[!<\n]|https?:\/\//g;
const ESCAPED = /[!-/:-@[-`{-~]/;
const ADDRESS = /^(?:https?:\/\/|mailto:)[^\s<>]+$/i;
const BARE = /https?:\/\/[^\s<>"'`]+/iy;
const LONGEST_ADDRESS = 2048;
const LONGEST_LINK = 4096;
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
    Object.assign(this, { text, growing, depth, at: 0, plain: "", nodes: [], unclosed: new Set(), angleEnd: -1 });
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

  push(next, nodes) {
    this.flush();
    for (const node of [nodes].flat()) this.nodes.push(node);
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
    const length = this.#runLength("`");
    const from = this.at + length;
    let end = this.#closingTicks(length, from);
    if (end < 0 && this.growing && length < 3 && from < this.text.length) end = this.text.length;
    if (end < 0) return this.skip(this.text.slice(this.at, from));
    const inner = this.text.slice(from, end).replace(/\n/g, " ");
    const padded = inner.length > 2 && inner.startsWith(" ") && inner.endsWith(" ") && inner.trim() !== "";
    return this.push(end + length, h("code", null, padded ? inner.slice(1, -1) : inner));
  }

  emphasis(char) {
    const length = this.#runLength(char);
    const run = this.text.slice(this.at, this.at + length);
    const mark = length >= 3 && char === "*" ? "***" : run.slice(0, 2) in TAGS ? run.slice(0, 2) : char;
    const tags = TAGS[mark];
    const from = this.at + mark.length;
    const opens = /\S/.test(this.text[from] ?? "") && !(char === "_" && /[\p{L}\p{N}]/u.test(this.text[this.at - 1] ?? ""));
    if (!tags || !opens || length > 3 || this.depth >= DEEPEST) return this.skip(run);
    let end = this.closing(mark, from, (at) => this.closes(at, mark));
    if (end < 0 && this.growing && mark.length > 1) end = this.text.length;
    if (end < 0) return this.skip(run);
    const inner = inline(this.text.slice(from, end), this.growing && end === this.text.length, this.depth + 1);
    return this.push(end + mark.length, tags.reduceRight((children, tag) => [h(tag, null, children)], inner));
  }

  /** How often this character stands here. */
  #runLength(char) {
    let end = this.at + 1;
    while (end < this.text.length && this.text[end] === char) end += 1;
    return end - this.at;
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

  /** Where a run of exactly so many backticks closes; every run is found once, and none is looked at twice. */
  #closingTicks(length, from) {
    if (!this.ticks) {
      this.ticks = new Map();
      for (const { 0: run, index } of this.text.matchAll(/`+/g)) {
        if (!this.ticks.has(run.length)) this.ticks.set(run.length, { places: [], next: 0 });
        if (this.text[index - 1] !== "\\") this.ticks.get(run.length).places.push(index);
      }
    }
    const runs = this.ticks.get(length) ?? { places: [], next: 0 };
    while (runs.next < runs.places.length && runs.places[runs.next] <= from) runs.next += 1;
    return runs.places[runs.next] ?? -1;
  }

  angle() {
    if (this.angleEnd < this.at) {
      const found = this.text.indexOf(">", this.at);
      this.angleEnd = found < 0 ? Infinity : found;
    }
    const end = this.angleEnd;
    const address = end - this.at < LONGEST_ADDRESS ? this.text.slice(this.at + 1, end) : "";
    return ADDRESS.test(address) && this.push(end + 1, anchor(address, [address.replace(/^mailto:/i, "")]));
  }

  bare() {
    BARE.lastIndex = this.at;
    const found = BARE.exec(this.text.slice(0, this.at + LONGEST_ADDRESS))?.[0] ?? "";
    const address = withoutEnd(found);
    // What is no address is passed over whole, so that the next one in it is not tried at the same length again.
    if (!address || !URL.canParse(address)) return found ? this.skip(found) : false;
    return this.push(this.at + address.length, anchor(address, [address]));
  }

  link(open) {
    const middle = this.#partner(open);
    if (middle < 0) return false;
    if (this.text[middle + 1] !== "(") return false;
    const label = this.text.slice(open + 1, middle);
    const inner = () => (this.depth < DEEPEST ? inline(label, false, this.depth + 1) : [label]);
    const end = this.#partner(middle + 1);
    if (end < 0) return this.growing && this.push(this.text.length, inner());
    const [target, ...more] = this.text.slice(middle + 2, end).trim().split(/\s+/, 2);
    const address = target.startsWith("<") && target.endsWith(">") ? target.slice(1, -1) : target;
    if (!ADDRESS.test(address) || (more.length && !/^["'(]/.test(more[0]))) return false;
    return this.push(end + 1, anchor(address, inner()));
  }

  /** Where the bracket that opens here closes; -1 where it does not, or too far away. */
  #partner(open) {
    this.pairs ??= pairsOf(this.text);
    const close = this.pairs.get(open) ?? -1;
    return close - open < LONGEST_LINK ? close : -1;
  }
}

/** Each bracket that opens, and the one that closes it; what stands behind a backslash is none. */
function pairsOf(text) {
  const pairs = new Map();
  const open = { "]": [], ")": [] };
  for (const { 0: found, index } of text.matchAll(/\\[^]|[[\]()]/g)) {
    if (found === "[") open["]"].push(index);
    else if (found === "(") open[")"].push(index);
    else if (found in open && open[found].length) pairs.set(open[found].pop(), index);
  }
  return pairs;
}

/** An address in running text, without the punctuation and the brackets of the sentence around it. */
function withoutEnd(address) {
  let end = address.length;
  while (end > 0 && ".,:;!?*_~".includes(address[end - 1])) end -= 1;
  let open = 0;
  for (let at = 0; at < end; at += 1) open += address[at] === "(" ? 1 : address[at] === ")" ? -1 : 0;
  while (open < 0 && address[end - 1] === ")") {
    end -= 1;
    open += 1;
  }
  return address.slice(0, end);
}

/** A link that leaves the console: web and mail addresses only, and nothing of ours goes along. */
function anchor(address, children) {
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, children);
}
