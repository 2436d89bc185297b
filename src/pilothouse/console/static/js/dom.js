// Builds DOM nodes. Text only ever becomes text nodes; there is no way in for markup.

const SVG = "http://www.w3.org/2000/svg";

/** `h("p", {class: "x", onclick: fn, "aria-label": "y"}, "text", child)`; null, undefined and false children are left out. */
export function h(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  // One by one: a call takes some ten thousand arguments, and a long text has more nodes.
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false) node.append(child);
  return node;
}

const SHAPES = {
  plus: "M12 5v14M5 12h14",
  up: "M12 19V5M6 11l6-6 6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  check: "M5 12.5l4.5 4.5L19 7.5",
  chevron: "M9 6l6 6-6 6",
  back: "M15 6l-6 6 6 6",
  copy: "M9 9h10v11H9zM5 15V4h10",
  pencil: "M4 20l1-4L16.5 4.5l3 3L8 19zM14.5 6.5l3 3",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l.8 13h8.4L17 7M10.5 11v5M13.5 11v5",
  download: "M12 4v11M7 10.5l5 5 5-5M5 20h14",
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM16 16l4.5 4.5",
  leave: "M14 5H6v14h8M11 12h9M17 8.5l3.5 3.5-3.5 3.5",
  chat: "M4 5.5h16v11h-8.5L7 20v-3.5H4z",
  runs: "M4 6.5h9M4 12h16M9 17.5h11",
  clip: "M19 11.5l-7.6 7.2a4.6 4.6 0 0 1-6.4-6.6l8-7.7a3.1 3.1 0 0 1 4.3 4.4l-7.7 7.4a1.5 1.5 0 0 1-2.1-2.2l7-6.7",
  file: "M7 3.5h7l4 4v13H7zM14 3.5v4h4",
  alert: "M12 4L2.8 19.5h18.4zM12 10v4.5M12 17v.4",
  info: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 11v5.5M12 7.6v.3",
  again: "M19.5 12a7.5 7.5 0 1 1-2.3-5.4M19.5 4v4.5H15",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6L7 7M17 17l1.4 1.4M18.4 5.6L17 7M7 17l-1.4 1.4",
  moon: "M20 14.2A8.2 8.2 0 0 1 9.8 4a8.2 8.2 0 1 0 10.2 10.2z",
  screen: "M3.5 5h17v11h-17zM9 20h6M12 16v4",
  tool: "M6 20.5l-2.5-2.5 8-8a4.8 4.8 0 0 1 6.4-6l-3 3 .5 2.6 2.6.5 3-3a4.8 4.8 0 0 1-6 6.4l-8 8z",
  spark: "M12 4l1.8 6.2L20 12l-6.2 1.8L12 20l-1.8-6.2L4 12l6.2-1.8z",
  link: "M9 15l6-6M10.5 6.5l1.8-1.8a4.2 4.2 0 0 1 6 6l-1.9 1.8M13.5 17.5l-1.8 1.8a4.2 4.2 0 0 1-6-6l1.9-1.8",
  wheel:
    "M12 18.2a6.2 6.2 0 1 0 0-12.4 6.2 6.2 0 0 0 0 12.4zM12 14a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM12 2v8M12 14v8M2 12h8M14 12h8" +
    "M4.9 4.9l5.7 5.7M13.4 13.4l5.7 5.7M19.1 4.9l-5.7 5.7M10.6 13.4l-5.7 5.7",
};

/** A line drawing that says nothing to screen readers; its button does. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: `icon icon-${name}`, "aria-hidden": "true" })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}

export function iconButton(name, label, onclick, props) {
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...props }, icon(name));
}

/** Hides or shows without losing the node's place. */
export function toggle(node, shown) {
  node.hidden = !shown;
}
