// Markdown to nodes, whole or while it grows.

import { h, toggle } from "../dom.js";
import { count } from "../format.js";
import { copyButton } from "../ui.js";
import { readBlocks } from "./blocks.js";
import { inline } from "./inline.js";

/** Characters of a text that are drawn at once; a button shows so many more. */
const SHOWN = 40_000;

/** The nodes of a whole text, however long. */
export function markdown(text) {
  return readBlocks(plain(text).split("\n")).map((block) => render(block, false));
}

/**
 * A text that grows at its end: blocks that are finished stay as they are, only the last one is drawn again. Of a very
 * long one the beginning is drawn, and more on request.
 */
export class GrowingMarkdown {
  /** @param {(text: string) => void} onBlock is told the plain text of every block once, when it is finished. */
  constructor(onBlock = () => {}) {
    this.more = h("button", { type: "button", class: "button small more-text", hidden: true, onclick: () => this.#showMore() });
    this.element = h("div", { class: "prose" });
    this.onBlock = onBlock;
    this.limit = SHOWN;
    this.clear();
  }

  clear() {
    this.text = "";
    this.done = 0;
    this.tail = [];
    this.element.replaceChildren();
    this.more.remove();
  }

  /** @param {boolean} finished nothing more is to come. */
  set(source, finished = false) {
    Object.assign(this, { source, finished });
    const shown = beginning(source, this.limit);
    this.#set(plain(shown), finished && shown.length === source.length);
    this.#offer(source.length - shown.length);
  }

  #showMore() {
    this.limit += SHOWN;
    this.set(this.source, this.finished);
  }

  #offer(left) {
    toggle(this.more, left > 0);
    if (left === 0) return this.more.remove();
    this.more.textContent = `Show more (${count(left)} characters left)`;
    this.element.append(this.more);
  }

  #set(text, finished) {
    if (!text.startsWith(this.text.slice(0, this.done))) this.clear();
    this.text = text;
    const lines = text.slice(this.done).split("\n");
    const blocks = readBlocks(lines);
    const final = finished ? blocks.length : Math.max(0, blocks.length - (this.#settled(blocks, lines) ? 1 : 2));
    this.#draw(blocks, !finished);
    for (const node of this.tail.splice(0, final)) this.onBlock(node.textContent);
    if (final > 0) this.done += final < blocks.length ? offsetOf(lines, blocks[final].line) : text.length - this.done;
  }

  /** The last block's first line is whole, so what is above it can't change any more. */
  #settled(blocks, lines) {
    return blocks.length > 0 && blocks.at(-1).line < lines.length - 1;
  }

  #draw(blocks, growing) {
    blocks.forEach((block, index) => {
      const old = this.tail[index];
      const last = growing && index === blocks.length - 1;
      if (old && block.kind === "code" && old.grow?.(block)) return;
      const node = render(block, last);
      if (old) old.replaceWith(node);
      else if (this.more.parentNode) this.more.before(node);
      else this.element.append(node);
      this.tail[index] = node;
    });
    for (const extra of this.tail.splice(blocks.length)) extra.remove();
  }
}

function plain(text) {
  return /[\r\t]/.test(text) ? text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ") : text;
}

/** At most `limit` characters, up to the end of a line if one ends in their second half. */
function beginning(text, limit) {
  if (text.length <= limit) return text;
  const end = text.lastIndexOf("\n", limit - 1) + 1;
  if (end > limit / 2) return text.slice(0, end);
  return text.slice(0, /[\uD800-\uDBFF]/.test(text[limit - 1]) ? limit - 1 : limit);
}

function offsetOf(lines, line) {
  return lines.slice(0, line).reduce((sum, item) => sum + item.length + 1, 0);
}

function render(block, growing) {
  switch (block.kind) {
    case "heading":
      return h(`h${Math.min(block.level + 2, 6)}`, { class: `h${block.level}`, dir: "auto" }, inline(block.text, growing));
    case "rule":
      return h("hr");
    case "code":
      return codeBlock(block);
    case "quote":
      return h("blockquote", { dir: "auto" }, block.blocks.map((inner, index) => render(inner, growing && index === block.blocks.length - 1)));
    case "list":
      return list(block, growing);
    case "table":
      return table(block);
    default:
      return h("p", { dir: "auto" }, inline(block.text, growing));
  }
}

function list(block, growing) {
  const items = block.items.map((blocks, index) => {
    const last = growing && index === block.items.length - 1;
    return h("li", { dir: "auto" }, blocks.flatMap((inner, at) => item(inner, block.loose, last && at === blocks.length - 1)));
  });
  const start = block.ordered && block.start !== 1 ? block.start : null;
  return h(block.ordered ? "ol" : "ul", { start, dir: "auto" }, items);
}

function item(inner, loose, growing) {
  if (inner.kind === "paragraph" && !loose) return taskBox(inner.text) ?? inline(inner.text, growing);
  return [render(inner, growing)];
}

function taskBox(text) {
  const found = /^\[([ xX])\] (.*)$/s.exec(text);
  if (!found) return null;
  const box = h("input", { type: "checkbox", disabled: true, checked: found[1] !== " ", "aria-label": found[1] === " " ? "to do" : "done" });
  return [box, " ", ...inline(found[2])];
}

function table(block) {
  const row = (tag) => (cell, column) => {
    const align = block.align[column];
    return h(tag, { class: align ? `align-${align}` : null, scope: tag === "th" ? "col" : null, dir: "auto" }, inline(cell));
  };
  const head = h("thead", null, h("tr", null, block.head.map(row("th"))));
  const body = h("tbody", null, block.rows.map((cells) => h("tr", null, cells.map(row("td")))));
  return h("div", { class: "table-scroll", tabindex: 0, role: "region", "aria-label": "Table" }, h("table", null, head, body));
}

function codeBlock(block) {
  const text = document.createTextNode(block.text);
  const code = h("pre", { tabindex: 0, dir: "ltr" }, h("code", null, text));
  const bar = h("figcaption", null, h("span", null, block.language || "text"), copyButton(() => text.data, "Copy code"));
  const node = h("figure", { class: "code-block" }, bar, code);
  node.grow = (next) => {
    if (next.language !== block.language || !next.text.startsWith(text.data)) return false;
    if (next.text.length > text.length) text.appendData(next.text.slice(text.length));
    return true;
  };
  return node;
}
