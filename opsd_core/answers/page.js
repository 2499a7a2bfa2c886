"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 8;
const KINDS = ["wrong→right", "right→wrong", "right→right", "wrong→wrong"];
const SVG = "http://www.w3.org/2000/svg";
// Control characters, direction marks and invisible ones, which could make a text look like another.
const STRANGE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]|[\u{e0000}-\u{e007f}]/u;

// Every text of a model or a data set reaches the page here, as text nodes.
function texts(value, found = "") {
  const parts = [];
  let plain = "";
  const flush = () => { if (plain) parts.push(...marked(plain, found)); plain = ""; };
  for (const sign of String(value)) {
    if (!STRANGE.test(sign)) { plain += sign; continue; }
    flush();
    const code = sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    parts.push(el("span", { class: "strange", title: "a character that cannot be seen" }, `U+${code}`));
  }
  flush();
  return parts;
}
function marked(plain, found) {
  const at = found ? plain.toLowerCase().indexOf(found) : -1;
  if (at < 0 || plain.toLowerCase().length !== plain.length) return [document.createTextNode(plain)];
  return [document.createTextNode(plain.slice(0, at)), el("mark", {}, plain.slice(at, at + found.length)),
    ...marked(plain.slice(at + found.length), found)];
}
function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else node.setAttribute(key, value);
  }
  node.append(...children.flat(Infinity));
  return node;
}
function svg(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const points = (share) => `${share > 0 ? "+" : share < 0 ? "−" : "±"}${Math.abs(100 * share).toFixed(1)}`;
const range = ([, low, high]) => `[${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`;
const spread = ([, low, high]) => `[${points(low)}, ${points(high)}]`;
const chosen = { side: data.sides.length > 2 ? 1 : data.sides.length - 1, kind: "", search: "", page: 0, state: "", sample: 0, every: false };
const main = document.getElementById("page");
main.replaceChildren();

function header() {
  const word = data.verdict.startsWith("waits") ? "waits" : data.verdict;
  const jump = (id, text) => el("button", { class: "link", on: { click: () => document.getElementById(id).scrollIntoView() } }, text);
  main.append(el("h1", {}, ...texts(data.title)));
  if (data.verdict) main.append(el("span", { class: `badge ${word}`, id: "verdict" }, data.verdict));
  for (const line of data.sentences) main.append(el("p", {}, ...texts(line)));
  main.append(el("div", { class: "alarms", id: "alarms", hidden: "" }));
  const links = data.links.map(([text, url]) => el("a", { href: url, rel: "noreferrer noopener", target: "_blank" }, ...texts(text)));
  main.append(el("nav", {}, jump("answers", "held-out answers"), jump("slices", "slices"),
    ...(data.completions.length ? [jump("completions", "completions token by token")] : []), ...links));
  if (data.facts.length) main.append(el("div", { class: "facts" },
    data.facts.map(([name, value]) => el("div", {}, el("b", {}, ...texts(name)), ...texts(value)))));
}
function alarms() {
  const rows = (data.slices[chosen.side] || []).filter((row) => row.warns);
  const lines = data.sides.length > 2
    ? [...data.alarms, ...rows.map((r) => `Falls: ${r.dimension} = ${r.value}, from ${percent(r.before[0])} to ${percent(r.after[0])} on ${r.n} items.`)]
    : data.alarms;
  const box = document.getElementById("alarms");
  box.hidden = !lines.length;
  box.replaceChildren(el("ul", {}, lines.map((line) => el("li", {}, ...texts(line)))));
}

// ---- held-out answers
const kind = (item) => `${item.answers[0].right ? "right" : "wrong"}→${item.answers[chosen.side].right ? "right" : "wrong"}`;
function visible() {
  const wanted = chosen.search.toLowerCase();
  return data.items.filter((item) => (!chosen.kind || !data.labelled || kind(item) === chosen.kind) && (!wanted ||
    [item.id, item.question, item.reference, item.answers[0].text, item.answers[chosen.side].text,
      item.answers[chosen.side].extracted || "", ...Object.values(item.columns)].some((text) => text.toLowerCase().includes(wanted))));
}
function answersPart() {
  main.append(el("h2", { id: "answers" }, "Held-out answers, before and after"));
  main.append(el("div", { id: "totals" }), el("div", { class: "bar", id: "kinds" }), el("div", { class: "bar" },
    el("input", { type: "search", id: "search", placeholder: "search in questions and answers", "aria-label": "search",
      on: { input: (event) => { chosen.search = event.target.value; chosen.page = 0; showItems(); } } }),
    el("button", { id: "csv", on: { click: download } }, "CSV"), el("span", { id: "count", class: "soft" })));
  main.append(el("div", { id: "csvtext" }), el("div", { id: "items" }), el("div", { class: "bar", id: "pages" }));
  if (data.sides.length > 2) document.getElementById("kinds").before(el("div", { class: "bar" }, "compare",
    el("b", {}, ...texts(data.sides[0])), "with", el("select", { id: "side", "aria-label": "side", on: { change: (event) => {
      chosen.side = Number(event.target.value); chosen.page = 0; chosen.kind = ""; refresh(); } } },
    data.sides.slice(1).map((name, index) => el("option", { value: String(index + 1) }, name))),
    el("label", {}, el("input", { type: "checkbox", id: "every", on: { change: (event) => { chosen.every = event.target.checked; showItems(); } } }), " show every side")));
}
function showTotals() {
  const box = document.getElementById("totals"), total = data.totals[chosen.side], lines = [];
  if (!total) lines.push(el("p", {}, "The items have no reference answers, so nothing here is called right or wrong."));
  else lines.push(el("p", {}, ...texts(data.sides[0]), `: ${percent(total.before[0])} ${range(total.before)} right; `,
    ...texts(data.sides[chosen.side]), `: ${percent(total.after[0])} ${range(total.after)}; difference ${points(total.difference[0])} points `,
    `${spread(total.difference)} on ${data.num_items} items.`));
  const why = data.items.length < data.num_items
    ? `Shown are ${data.items.length} of ${data.num_items} items: changed ones first, the rest drawn at random with a fixed seed. The counts on the buttons are of all.`
    : "";
  for (const text of [data.left_out, why]) if (text) lines.push(el("p", { class: "soft" }, ...texts(text)));
  box.replaceChildren(...lines);
}
function showKinds() {
  const total = data.totals[chosen.side];
  const button = (value, label) => el("button", { class: chosen.kind === value ? "on" : "", "data-kind": value, "aria-pressed": String(chosen.kind === value),
    on: { click: () => { chosen.kind = value; chosen.page = 0; showKinds(); showItems(); } } }, label);
  document.getElementById("kinds").replaceChildren(...(total
    ? [button("", `all ${data.num_items}`), ...KINDS.map((name) => button(name, `${name} ${total.kinds[name]}`))] : []));
}
function answer(item, index) {
  const given = item.answers[index], state = data.labelled ? (given.right ? "right" : "wrong") : "";
  const found = chosen.search.toLowerCase();
  return el("div", { class: `side ${state}` }, el("div", { class: "head" }, el("b", {}, ...texts(data.sides[index])),
    ...(state ? [el("span", { class: `tag ${state}` }, state)] : []), el("span", {}, "answer ",
      ...(given.extracted === null ? ["none found"] : texts(given.extracted))), el("span", {}, `${given.tokens} tokens`),
    ...(given.cut ? [el("span", { class: "tag" }, "cut")] : [])), el("pre", {}, ...texts(given.text, found)));
}
function showItems() {
  const rows = visible(), pages = Math.max(1, Math.ceil(rows.length / PAGE)), found = chosen.search.toLowerCase();
  chosen.page = Math.min(chosen.page, pages - 1);
  document.getElementById("count").textContent = `${rows.length} shown here`;
  document.getElementById("items").replaceChildren(...rows.slice(chosen.page * PAGE, (chosen.page + 1) * PAGE).map((item) =>
    el("div", { class: "card item" }, el("div", { class: "head" }, ...(data.labelled ? [el("span", { class: "tag" }, kind(item))] : []),
      el("span", {}, "reference: ", el("b", {}, ...texts(item.reference || "none", found))),
      ...Object.entries(item.columns).slice(0, 6).map(([name, value]) => el("span", { class: "tag" }, ...texts(`${name}: ${value}`))),
      el("span", {}, item.id)),
    el("pre", {}, ...texts(item.question, found)), el("div", { class: "sides" }, (chosen.every ? data.sides.map((_, index) => index) : [0, chosen.side]).map((index) => answer(item, index))),
    ...(item.solution ? [el("details", {}, el("summary", {}, "reference solution"), el("pre", {}, ...texts(item.solution)))] : []))));
  const turn = (step) => () => { chosen.page += step; showItems(); document.getElementById("answers").scrollIntoView(); };
  const back = el("button", { on: { click: turn(-1) } }, "previous"), next = el("button", { on: { click: turn(1) } }, "next");
  back.disabled = chosen.page === 0; next.disabled = chosen.page >= pages - 1;
  document.getElementById("pages").replaceChildren(...(pages > 1 ? [back, el("span", { class: "soft" }, `page ${chosen.page + 1} of ${pages}`), next] : []));
}
function csv(rows) {
  // A cell that a spreadsheet would run as a formula gets an apostrophe; a plain number does not.
  const cell = (value) => {
    let text = value === null ? "" : String(value);
    if (/^[\s]*[=+\-@|\t\r]/.test(text) && !/^[-+]?[\d.,]+(e[-+]?\d+)?$/i.test(text)) text = `'${text}`;
    return `"${text.replaceAll('"', '""')}"`;
  };
  const [one, two] = [data.sides[0], data.sides[chosen.side]];
  const head = ["id", "question", "reference", ...[one, two].flatMap((n) => [`${n}: right`, `${n}: answer`, `${n}: text`])];
  const lines = rows.map((item) => [item.id, item.question, item.reference, ...[0, chosen.side].flatMap((i) =>
    [data.labelled ? item.answers[i].right : null, item.answers[i].extracted, item.answers[i].text])]);
  return [head, ...lines].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}
function download() {
  const text = csv(visible()), box = document.getElementById("csvtext");
  if (window.self === window.top) {  // a sandboxed frame, as MLflow's, allows no downloads: there it is shown to be copied
    const url = URL.createObjectURL(new Blob(["\ufeff" + text], { type: "text/csv" }));
    el("a", { href: url, download: "answers.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    return;
  }
  const area = el("textarea", { readonly: "", "aria-label": "CSV" });
  area.value = text;
  box.replaceChildren(el("p", { class: "soft" }, "This viewer allows no downloads. Copy the text, or download answers.html and open it from the disk."), area);
  area.select();
}

// ---- slices
function interval([mean, low, high], colour, y) {
  const x = (share) => 4 + 192 * share;
  return [svg("line", { x1: x(low), x2: x(high), y1: y, y2: y, stroke: colour, "stroke-width": 2 }),
    svg("circle", { cx: x(mean), cy: y, r: 3.6, fill: colour })];
}
function slicesPart() {
  main.append(el("h2", { id: "slices" }, "Slices"), el("p", { class: "soft" }, "Accuracy before (",
    "orange", ") and after (blue) with 95 % intervals (Wilson); the difference of the same items with Newcombe's paired ",
    "interval; p: exact one-sided McNemar test that the slice falls. A warning needs a fall that Holm's procedure over all slices of this ",
    "page rejects at 5 %, and a whole that does not fall. Slices by what the model did before also move by chance alone: what was lucky falls."),
  el("div", { class: "scroll" }, el("table", { id: "slicetable" })));
}
function showSlices() {
  const rows = data.slices[chosen.side] || [], lines = [];
  let dimension = "";
  for (const row of rows) {
    if (row.dimension !== dimension) lines.push(el("tr", { class: "group" }, el("td", { colspan: 6 }, ...texts(row.dimension))));
    dimension = row.dimension;
    const picture = svg("svg", { width: 200, height: 22, viewBox: "0 0 200 22", role: "img", "aria-label": `${percent(row.before[0])} to ${percent(row.after[0])}` });
    picture.append(svg("line", { x1: 4, x2: 196, y1: 11, y2: 11, stroke: "#dde2e9" }), ...interval(row.before, "#e69f00", 6), ...interval(row.after, "#0072b2", 16));
    lines.push(el("tr", { class: row.warns ? "warns" : "" }, el("td", {}, ...texts(row.value)), el("td", { class: "number" }, String(row.n)),
      el("td", { class: "number" }, `${percent(row.before[0])} → ${percent(row.after[0])}`), el("td", {}, picture),
      el("td", { class: "number" }, `${points(row.difference[0])} ${spread(row.difference)}`),
      el("td", { class: "number" }, `${row.p_falls.toPrecision(2)}${row.warns ? " falls" : ""}`)));
  }
  document.getElementById("slicetable").replaceChildren(...(rows.length ? [el("tr", {}, ["slice", "items", "accuracy", "0 – 100 %", "points", "p(falls)"].map((h) => el("th", {}, h))), ...lines]
    : [el("tr", {}, el("td", {}, data.labelled ? "No column or property divides the items." : "Without reference answers there is no accuracy."))]));
}

// ---- completions
function colour(gap) {
  if (gap === null) return "";
  const strength = Math.min(1, Math.abs(gap) / 300) * 0.75;
  return Math.abs(gap) < 5 ? "" : gap > 0 ? `rgba(0, 114, 178, ${strength})` : `rgba(213, 94, 0, ${strength})`;
}
const shownToken = (text) => texts(text.replaceAll("\n", "⏎\n").replaceAll("\t", "⇥"));
const nats = (value) => value === null ? "–" : value <= -99990 ? "−∞" : (value / 100).toFixed(2).replace("-", "−");
const share = (value) => value === null ? "–" : `${(100 * Math.exp(value / 100)).toFixed(value < -461 ? 3 : 1)} %`;
const tip = el("div", { id: "tip", hidden: "", role: "tooltip" });
const gapAt = (row, at) => row.t && row.s[at] !== null && row.t[at] !== null ? row.t[at] - row.s[at] : null;
const environments = (row, at) => row.s[at] === null && row.S[at] && row.S[at].length === 0;
function showTip(row, at, event) {
  const sides = [["student", row.S[at]], ["teacher", row.T ? row.T[at] : null]].filter(([, top]) => top);
  const gap = gapAt(row, at);
  if (environments(row, at)) return tip.replaceChildren(el("div", {}, `position ${at + 1}: written by the environment, not learned from`));
  const lines = [el("div", {}, "“", ...shownToken(data.vocabulary[row.ids[at]]), "” ", `position ${at + 1}: log S ${nats(row.s[at])}`,
    row.t ? `, log T ${nats(row.t[at])}, log T − log S ${nats(gap)}` : ", log T not recorded")];
  const rows = [];
  for (let i = 0; i < 4; i += 1) rows.push(el("tr", {}, sides.map(([, top]) => 2 * i < top.length
    ? [el("td", {}, "“", ...shownToken(data.vocabulary[top[2 * i]]), "”"), el("td", {}, share(top[2 * i + 1]))] : [el("td"), el("td")])));
  lines.push(el("table", {}, el("tr", {}, sides.map(([name]) => el("th", { colspan: 2 }, `${name}'s likeliest`))), ...rows));
  tip.replaceChildren(...lines);
  tip.hidden = false;
  const box = tip.getBoundingClientRect(), where = event.target.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(where.left, window.innerWidth - box.width - 8))}px`;
  tip.style.top = `${where.bottom + box.height + 10 > window.innerHeight ? where.top - box.height - 6 : where.bottom + 6}px`;
}
function tokens(row) {
  const box = el("div", { class: "tokens" });
  row.ids.forEach((id, at) => {
    const span = el("span", { "data-at": String(at) }, ...shownToken(data.vocabulary[id]));
    if (environments(row, at)) span.style.opacity = "0.5";
    span.style.backgroundColor = colour(gapAt(row, at));
    box.append(span);
  });
  const over = (event) => {
    const span = event.target.closest("span[data-at]");
    if (span) showTip(row, Number(span.dataset.at), { target: span });
  };
  box.addEventListener("mouseover", over);
  box.addEventListener("click", over);
  box.addEventListener("mouseleave", () => { tip.hidden = true; });
  return box;
}
function completionsPart() {
  main.append(el("h2", { id: "completions" }, "What was trained on, token by token"));
  const patch = (gap) => { const node = el("span"); node.style.backgroundColor = colour(gap); return node; };
  main.append(el("p", { class: "soft legend" }, "The student's own completions before training. Colour: log T − log S of the token drawn; ",
    patch(300), " the teacher finds it likelier, ", patch(-300), " less likely (full colour from 3 nats on). Hover or tap a token for both sides' likeliest ones. ",
    `Shown are ${data.completions.length} of ${data.num_completions} completions, in turns from every outcome, drawn with a fixed seed.`));
  if (data.note) main.append(el("p", { class: "soft" }, ...texts(data.note)));
  main.append(el("div", { class: "bar", id: "states" }), el("div", { id: "rows" }), el("div", { class: "bar", id: "rowpages" }));
}
function showStates() {
  const counts = new Map();
  for (const row of data.completions) for (const state of row.states) counts.set(state, (counts.get(state) || 0) + 1);
  const button = (value, label) => el("button", { class: chosen.state === value ? "on" : "", "data-state": value, "aria-pressed": String(chosen.state === value),
    on: { click: () => { chosen.state = value; chosen.sample = 0; showStates(); showRows(); } } }, ...texts(label));
  document.getElementById("states").replaceChildren(button("", `all ${data.completions.length}`),
    ...[...counts].sort().map(([state, count]) => button(state, `${state} ${count}`)));
}
function showRows() {
  const rows = data.completions.filter((row) => !chosen.state || row.states.includes(chosen.state));
  const pages = Math.max(1, Math.ceil(rows.length / 8));
  document.getElementById("rows").replaceChildren(...rows.slice(chosen.sample * 8, chosen.sample * 8 + 8).map((row) =>
    el("div", { class: "card completion" }, el("div", { class: "head" }, ...row.states.map((state) => el("span", { class: `tag ${state}` }, ...texts(state))),
      el("span", {}, "answer ", ...(row.extracted === null ? ["none found"] : texts(row.extracted)), ", reference ", ...texts(row.reference || "none")),
      ...(row.weight === 1 ? [] : [el("span", {}, `weight ${row.weight}`)]), el("span", {}, `${row.id}, sample ${row.sample}`)),
    tokens(row), el("details", {}, el("summary", {}, "what the student was asked"), el("pre", {}, ...texts(row.prompt))),
    ...(row.privileged === null ? [] : [el("details", { class: "privileged" }, el("summary", {}, "what only the teacher saw"), el("pre", {}, ...texts(row.privileged)))]))));
  const turn = (step) => () => { chosen.sample += step; showRows(); document.getElementById("completions").scrollIntoView(); };
  const back = el("button", { on: { click: turn(-1) } }, "previous"), next = el("button", { on: { click: turn(1) } }, "next");
  back.disabled = chosen.sample === 0; next.disabled = chosen.sample >= pages - 1;
  document.getElementById("rowpages").replaceChildren(...(pages > 1 ? [back, el("span", { class: "soft" }, `page ${chosen.sample + 1} of ${pages}`), next] : []));
}

// ---- divergence along positions
function curvePart() {
  const curve = data.curve;
  if (!curve || curve.points.length < 2) return;
  main.append(el("h2", { id: "divergence" }, "Where the teacher disagrees"), el("p", { class: "soft" },
    "KL(student ‖ teacher) by position in the completion, in nats: the mean, and a band of 1.96 standard errors. From what both sides recorded, so at most the ",
    `exact value. Over ${curve.completions} of ${curve.of} completions that have targets.`));
  const W = 760, H = 220, L = 46, B = 28, top = Math.max(...curve.points.map(([m, e]) => m + 1.96 * e), 1e-6);
  const x = (i) => L + (W - L - 12) * i / (curve.points.length - 1), y = (v) => 8 + (H - B - 8) * (1 - Math.max(0, v) / top);
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": "divergence by position" });
  for (let i = 0; i <= 4; i += 1) picture.append(svg("line", { x1: L, x2: W - 12, y1: y(top * i / 4), y2: y(top * i / 4), stroke: "#dde2e9" }),
    svg("text", { x: L - 6, y: y(top * i / 4) + 4, "text-anchor": "end" }, (top * i / 4).toPrecision(2)));
  const steps = Math.min(10, curve.points.length - 1);
  for (let i = 0; i <= steps; i += 1) {
    const at = Math.round(i * (curve.points.length - 1) / steps);
    picture.append(svg("text", { x: x(at), y: H - 8, "text-anchor": "middle" }, String(at + 1)));
  }
  const line = (f) => curve.points.map((p, i) => `${x(i).toFixed(1)},${y(f(p)).toFixed(1)}`);
  picture.append(svg("polygon", { points: [...line(([m, e]) => m + 1.96 * e), ...line(([m, e]) => m - 1.96 * e).reverse()].join(" "), fill: "#0072b2", opacity: 0.16 }),
    svg("polyline", { points: line(([m]) => m).join(" "), fill: "none", stroke: "#0072b2", "stroke-width": 2 }));
  main.append(el("div", { class: "card" }, picture));
}
function refresh() { alarms(); showTotals(); showKinds(); showItems(); showSlices(); }
header(); answersPart(); slicesPart();
if (data.completions.length) completionsPart();
curvePart();
main.append(el("footer", {}, "Made by opsd. This page needs no network and keeps nothing; what models and data wrote is shown as text alone."), tip);
refresh();
if (data.completions.length) { showStates(); showRows(); }
