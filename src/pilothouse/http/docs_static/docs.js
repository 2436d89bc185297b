// Draws /openapi.json: operations by tag, parameters, schemas, examples, errors, and a form to try each.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
const DEEPEST = 6;
let spec = {};

/** An element: h("a.link", {href}, "text", child). Text is only ever set as text. */
function h(kind, attributes, ...children) {
  const [tag, ...classes] = kind.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

function resolve(schema) {
  for (let hops = 0; schema && schema.$ref && hops < 20; hops++) {
    const { $ref, ...siblings } = schema;
    const found = $ref.split("/").slice(1).reduce((at, key) => at?.[key.replace(/~1/g, "/").replace(/~0/g, "~")], spec);
    schema = { ...(found || {}), ...siblings };
  }
  if (schema && schema.allOf && schema.allOf.length === 1) return { ...resolve(schema.allOf[0]), ...schema, allOf: undefined };
  return schema || {};
}

const variants = (schema) => (schema.anyOf || schema.oneOf || []);

function typeName(raw) {
  const name = raw?.$ref?.split("/").pop();
  const schema = resolve(raw);
  if (variants(schema).length) return variants(schema).map(typeName).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `${typeName(schema.items || {})}[]`;
  if (schema.type === "object" && !schema.properties && schema.additionalProperties?.type) return `{string: ${typeName(schema.additionalProperties)}}`;
  if (Array.isArray(schema.type)) return schema.type.join(" | ");
  return name || (schema.format ? `${schema.type} (${schema.format})` : schema.type || "any");
}

function limits(schema) {
  const words = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<", minLength: "length ≥", maxLength: "length ≤", minItems: "items ≥", maxItems: "items ≤", pattern: "matches" };
  const found = [schema, ...variants(schema).map(resolve)].flatMap((one) => Object.entries(words).filter(([key]) => one[key] !== undefined).map(([key, word]) => `${word} ${one[key]}`));
  if (schema.default !== undefined && schema.default !== null) found.push(`default ${JSON.stringify(schema.default)}`);
  return found.join(", ");
}

function example(raw, seen = []) {
  const schema = resolve(raw);
  if (schema.example !== undefined) return schema.example;
  if (schema.examples?.length) return schema.examples[0];
  if (schema.default !== undefined) return schema.default;
  if ("const" in schema) return schema.const;
  if (schema.enum) return schema.enum[0];
  if (variants(schema).length) return example(variants(schema)[0], seen);
  if (raw.$ref) {
    if (seen.includes(raw.$ref)) return {};
    seen = [...seen, raw.$ref];
  }
  if (schema.properties) return Object.fromEntries(Object.entries(schema.properties).map(([name, inner]) => [name, example(inner, seen)]));
  if (schema.type === "array") return schema.items ? [example(schema.items, seen)] : [];
  return { integer: 1, number: 1, boolean: true, object: {}, null: null, string: "string" }[schema.type] ?? {};
}

/** What has named fields inside a schema: the object itself, an array's items, the object among alternatives. */
function objectInside(raw) {
  const schema = resolve(raw);
  if (schema.properties) return raw;
  const inner = schema.type === "array" ? [schema.items || {}] : variants(schema);
  for (const one of inner) {
    const found = objectInside(one);
    if (found) return found;
  }
  return null;
}

function fieldRow(name, raw, required, seen, note) {
  const schema = resolve(raw);
  const cell = h("td", null, h("span.type", null, typeName(raw)), limits(schema) ? h("small", null, ` ${limits(schema)}`) : null);
  const text = note || schema.description;
  if (text) cell.append(h("p", null, text));
  const inside = objectInside(raw);
  if (inside && seen.length < DEEPEST && !seen.includes(inside.$ref)) {
    const more = h("details.inner", null, h("summary", null, "fields"));
    more.addEventListener("toggle", () => more.childElementCount === 1 && more.append(fields(inside, seen)), { once: true });
    cell.append(more);
  }
  return h("tr", null, h("td", null, h("code", null, name), required ? h("span.required", { title: "required" }, " *") : null), cell);
}

function fields(raw, seen = []) {
  const schema = resolve(raw);
  const below = [...seen, raw.$ref || "inline"];
  return h("table", null, Object.entries(schema.properties || {}).map(([name, inner]) => fieldRow(name, inner, schema.required?.includes(name), below)));
}

function shown(value) {
  return h("pre", null, typeof value === "string" ? value : JSON.stringify(value, null, 2));
}

function content(media) {
  const parts = [];
  for (const [type, body] of Object.entries(media || {})) {
    const schema = body.schema || {};
    const inside = objectInside(schema);
    parts.push(h("small", null, type, " ", h("span.type", null, typeName(schema))));
    if (inside) parts.push(fields(inside));
    const given = body.example ?? Object.values(body.examples || {})[0]?.value;
    if (given !== undefined || inside) parts.push(h("details.inner", null, h("summary", null, "example"), shown(given ?? example(schema))));
  }
  return parts;
}

function responses(operation) {
  return Object.entries(operation.responses || {}).map(([status, raw]) => {
    const response = resolve(raw);
    const kind = status.startsWith("2") ? "ok" : "bad";
    const names = Object.keys(response.headers || {});
    return h("details.inner", { open: status.startsWith("2") },
      h("summary", null, h(`b.${kind}`, null, status), ` ${response.description || ""}`),
      names.length ? h("small", null, `Headers: ${names.join(", ")}`) : null, content(response.content));
  });
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl(request) {
  const parts = [`curl -X ${request.method} ${quoted(new URL(request.url, location.href).href)}`];
  for (const [name, value] of Object.entries(request.headers)) {
    parts.push(`-H ${quoted(`${name}: ${name === "Authorization" ? "Bearer $TOKEN" : value}`).replace("$TOKEN'", "'\"$TOKEN\"")}`);
  }
  if (request.body !== undefined) parts.push(`--data ${quoted(request.body)}`);
  return parts.join(" \\\n  ");
}

function buildRequest(method, path, inputs, body) {
  const headers = {};
  const query = new URLSearchParams();
  let url = path;
  for (const { parameter, input } of inputs) {
    const value = input.value;
    if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (value !== "" && parameter.in === "query") query.append(parameter.name, value);
    else if (value !== "" && parameter.in === "header") headers[parameter.name] = value;
  }
  const token = document.getElementById("token").value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  const base = document.documentElement.dataset.openapi.replace(/openapi\.json$/, "");
  const prefix = new URL(base || ".", location.href).pathname.replace(/\/$/, "");
  return { method: method.toUpperCase(), url: prefix + url + (query.size ? `?${query}` : ""), headers, body: body ? body.value : undefined };
}

async function send(request, output, signal) {
  const began = performance.now();
  const status = h("p", null, "…");
  const text = h("pre", null);
  output.replaceChildren(h("details.inner", null, h("summary", null, "curl"), shown(curl(request))), status, text);
  try {
    const answer = await fetch(request.url, { ...request, signal });
    const id = answer.headers.get("x-request-id");
    status.replaceChildren(h(answer.ok ? "b.ok" : "b.bad", null, `${answer.status} ${answer.statusText}`), ` ${Math.round(performance.now() - began)} ms`, id ? h("small", null, ` ${id}`) : "");
    if (!answer.body) return;
    for await (const part of chunks(answer.body.pipeThrough(new TextDecoderStream()))) text.append(part);
    if ((answer.headers.get("content-type") || "").includes("json")) text.textContent = JSON.stringify(JSON.parse(text.textContent), null, 2);
  } catch (error) {
    status.append(h("span.bad", null, error.name === "AbortError" ? " stopped" : ` ${error.message}`));
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}

function tryIt(method, path, parameters, operation) {
  const inputs = parameters.map((parameter) => ({
    parameter,
    input: h("input", { name: parameter.name, required: parameter.required, placeholder: typeName(parameter.schema || {}), value: parameter.in === "path" ? "" : (parameter.example ?? null) }),
  }));
  const media = resolve(operation.requestBody).content?.["application/json"];
  const given = media && (media.example ?? Object.values(media.examples || {})[0]?.value ?? example(media.schema || {}));
  const body = media ? h("textarea", { spellcheck: "false", "aria-label": "Body" }, JSON.stringify(given, null, 2)) : null;
  const output = h("div");
  const stop = h("button.quiet", { type: "button", hidden: true }, "Stop");
  const submit = async (event) => {
    event.preventDefault();
    const control = new AbortController();
    stop.hidden = false;
    stop.onclick = () => control.abort();
    await send(buildRequest(method, path, inputs, body), output, control.signal);
    stop.hidden = true;
  };
  return h("details.inner", null, h("summary", null, "Try it"),
    h("form", { onsubmit: submit }, inputs.map(({ parameter, input }) => h("label.row", null, h("span", null, h("code", null, parameter.name)), input)), body,
      h("div.actions", null, h("button", { type: "submit" }, "Send"), stop), output));
}

function operationBody(method, path, item, operation) {
  const parameters = [...(item.parameters || []), ...(operation.parameters || [])].map(resolve);
  const request = resolve(operation.requestBody);
  const places = parameters.map((parameter) => fieldRow(`${parameter.name}`, parameter.schema || {}, parameter.required, ["parameter"], [parameter.description, `in ${parameter.in}`].filter(Boolean).join(" · ")));
  return h("div", null,
    operation.description ? h("p", null, operation.description) : null,
    places.length ? [h("h3", null, "Parameters"), h("table", null, places)] : null,
    request.content ? [h("h3", null, "Body"), content(request.content)] : null,
    h("h3", null, "Responses"), responses(operation), tryIt(method, path, parameters, operation));
}

function operations() {
  const groups = new Map((spec.tags || []).map((tag) => [tag.name, []]));
  for (const [path, item] of Object.entries(spec.paths || {})) {
    for (const method of METHODS.filter((name) => item[name])) {
      const operation = item[method];
      const tag = operation.tags?.[0] || "other";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push({ method, path, item, operation, id: `${method}${path}`.replace(/[^A-Za-z0-9]+/g, "-") });
    }
  }
  return [...groups].filter(([, list]) => list.length);
}

function card({ method, path, item, operation, id }) {
  const gone = operation.deprecated ? ".gone" : "";
  const details = h("details.operation", { id },
    h("summary", null, h(`span.method.${method}`, null, method.toUpperCase()), h(`span.path${gone}`, null, path), h("small", null, operation.summary || "")));
  details.addEventListener("toggle", () => details.childElementCount === 1 && details.append(operationBody(method, path, item, operation)), { once: true });
  return details;
}

function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target) target.open = true;
}

function draw() {
  document.getElementById("version").textContent = spec.info?.version || "";
  const main = document.getElementById("main");
  const index = document.getElementById("index");
  main.replaceChildren(spec.info?.description ? h("p", null, spec.info.description) : "");
  for (const [tag, list] of operations()) {
    const described = (spec.tags || []).find((one) => one.name === tag)?.description;
    main.append(h("section", null, h("h2", null, tag), described ? h("p.note", null, described) : null, list.map(card)));
    index.append(h("div", null, h("h2", null, tag), list.map(({ method, path, id }) =>
      h("a", { href: `#${id}`, title: path }, h(`span.method.${method}`, null, method.toUpperCase()), h("span.path", null, path.replace(/^\/v1/, ""))))));
  }
  document.getElementById("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const link of index.querySelectorAll("a")) {
      const hidden = !link.textContent.toLowerCase().includes(wanted);
      link.hidden = hidden;
      document.getElementById(link.hash.slice(1)).hidden = hidden;
    }
  });
  addEventListener("hashchange", openTarget);
  openTarget();
}

async function start() {
  const token = document.getElementById("token");
  token.value = sessionStorage.getItem("pilothouse-docs-token") || "";
  token.addEventListener("input", () => sessionStorage.setItem("pilothouse-docs-token", token.value));
  try {
    const answer = await fetch(document.documentElement.dataset.openapi);
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    spec = await answer.json();
    draw();
  } catch (error) {
    document.getElementById("main").replaceChildren(h("p.bad", null, `The API description can't be loaded: ${error.message}`));
  }
}

start();
