// Markdown lines to blocks: a plain subset of CommonMark with tables. Raw HTML is text.
//
// Models write what they like, so every line is read in time that grows with its length only: the expressions have no two
// parts next to each other that may take the same characters.

const FENCE = /^( {0,3})(`{3,}(?!`)|~{3,}(?!~))([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s|$)/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:( +)(.*)|)$/;
const DIVIDER_CELL = /^:?-+:?$/;
const MOST_COLUMNS = 100;
const FILLED_COLUMNS = 12;
const DEEPEST = 8;

/**
 * Splits text into blocks. Each knows the line it starts at (`line`), so that a growing text need not be read again
 * from its beginning.
 */
export function readBlocks(lines, depth = 0) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === "") {
      at += 1;
      continue;
    }
    const [block, next] = readBlock(lines, at, depth);
    block.line = at;
    blocks.push(block);
    at = next;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return readFence(lines, at);
  const heading = HEADING.exec(line);
  if (heading) return [{ kind: "heading", level: heading[1].length, text: headingText(line.slice(heading[0].length)) }, at + 1];
  if (RULE.test(line)) return [{ kind: "rule" }, at + 1];
  if (depth < DEEPEST && QUOTE.test(line)) return readQuote(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return readList(lines, at, depth);
  if (startsTable(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at);
}

/** Without the marks that may close a heading: `# Title ##`. */
function headingText(rest) {
  const text = rest.trim();
  const open = trimEnd(text, "#");
  return open === "" || /\s$/.test(open.slice(-1)) ? open.trimEnd() : text;
}

function readFence(lines, at) {
  const [, indent, mark, info] = FENCE.exec(lines[at]);
  const body = [];
  let next = at + 1;
  while (next < lines.length && !closesFence(lines[next], mark)) {
    body.push(lines[next].slice(Math.min(indentOf(lines[next]), indent.length)));
    next += 1;
  }
  const closed = next < lines.length;
  return [{ kind: "code", language: info.trim().split(/\s/, 1)[0], text: body.join("\n"), closed }, next + (closed ? 1 : 0)];
}

function closesFence(line, mark) {
  const marks = line.trim();
  return marks.length >= mark.length && indentOf(line) <= 3 && trimEnd(marks, mark[0]) === "";
}

function trimEnd(text, char) {
  let end = text.length;
  while (end > 0 && text[end - 1] === char) end -= 1;
  return text.slice(0, end);
}

function readQuote(lines, at, depth) {
  const inner = [];
  let next = at;
  while (next < lines.length && lines[next].trim() !== "" && (QUOTE.test(lines[next]) || !startsBlock(lines, next))) {
    inner.push(lines[next].replace(QUOTE, ""));
    next += 1;
  }
  return [{ kind: "quote", blocks: readBlocks(inner, depth + 1) }, next];
}

function readList(lines, at, depth) {
  const [, indent, mark] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(mark);
  const list = { kind: "list", ordered, start: ordered ? Number.parseInt(mark, 10) : 1, loose: false, items: [] };
  let next = at;
  while (next < lines.length) {
    const item = ITEM.exec(lines[next]);
    const sameList = item && item[1].length <= indent.length + 1 && sameKind(item[2], mark) && !RULE.test(lines[next]);
    if (!sameList) break;
    const [inner, end, gap] = readItem(lines, next, item);
    list.items.push(readBlocks(inner, depth + 1));
    next = end;
    if (gap && continuesList(lines, next, indent, mark)) list.loose = true;
  }
  return [list, next];
}

function readItem(lines, at, item) {
  const width = item[1].length + item[2].length + Math.min(item[3]?.length ?? 1, 4);
  const inner = [item[4] ?? ""];
  let next = at + 1;
  let gap = false;
  while (next < lines.length) {
    const line = lines[next];
    const blank = line.trim() === "";
    const indented = indentOf(line) >= Math.min(width, item[1].length + 2);
    if (!blank && !indented && (gap || startsBlock(lines, next))) break;
    inner.push(blank ? "" : line.slice(Math.min(indentOf(line), width)));
    gap = blank;
    next += 1;
  }
  return [inner, next, gap];
}

function continuesList(lines, at, indent, mark) {
  const item = at < lines.length ? ITEM.exec(lines[at]) : null;
  return Boolean(item && item[1].length <= indent.length + 1 && sameKind(item[2], mark));
}

function sameKind(a, b) {
  return /\d/.test(a) ? /\d/.test(b) && a.at(-1) === b.at(-1) : a === b;
}

function indentOf(line) {
  return line.length - line.trimStart().length;
}

function startsTable(lines, at) {
  if (at + 1 >= lines.length || !lines[at].includes("|") || !isDivider(lines[at + 1])) return false;
  const columns = cells(lines[at + 1]).length;
  return columns <= MOST_COLUMNS && cells(lines[at]).length === columns;
}

function isDivider(line) {
  return line.includes("-") && indentOf(line) <= 3 && cells(line).every((cell) => DIVIDER_CELL.test(cell));
}

function readTable(lines, at) {
  const align = cells(lines[at + 1]).map((cell) => {
    if (/^:-+:$/.test(cell)) return "center";
    return cell.endsWith("-:") ? "end" : null;
  });
  const rows = [];
  let next = at + 2;
  while (next < lines.length && lines[next].trim() !== "" && !startsBlock(lines, next)) {
    const row = cells(lines[next]).slice(0, align.length);
    // A short row of a wide table stays short: else a few lines would make cells without number.
    if (align.length <= FILLED_COLUMNS) while (row.length < align.length) row.push("");
    rows.push(row);
    next += 1;
  }
  return [{ kind: "table", head: cells(lines[at]), align, rows }, next];
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replace(/\\\|/g, "|"));
}

function readParagraph(lines, at) {
  let next = at + 1;
  while (next < lines.length && lines[next].trim() !== "" && !startsBlock(lines, next) && !startsTable(lines, next)) next += 1;
  return [{ kind: "paragraph", text: lines.slice(at, next).map((line) => line.trimStart()).join("\n") }, next];
}

/** Whether this line ends a paragraph above it. */
function startsBlock(lines, at) {
  const line = lines[at];
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line)) return true;
  const item = ITEM.exec(line);
  return Boolean(item && item[4] && (!/\d/.test(item[2]) || Number.parseInt(item[2], 10) === 1 || item[1].length > 0));
}
