// The node map: one tile an executor. Filled from below as far as allocated, a narrower column as far as really used, a mark
// where it is not simply online. The data are two texts that the page's socket keeps up to date (executors/nodemap.py).

import { painted } from "./painted.js";

const SVG = "http://www.w3.org/2000/svg";
const MOST_HEIGHT = 420, LARGEST = 40, SMALLEST = 9, GAP = 3;
const WIDE_UP_TO = 40, WIDE = 118, WIDE_HEIGHT = 44; // so few that their names fit in
const WORDS = { ONLINE: "online", LOST: "lost", UNHEALTHY: "unhealthy", CORDONED: "closed to new jobs", DRAINING: "draining", DRAINED: "drained" };
const SHARES = { cpu: [2, 3], memory: [4, 5], gpu: [6, 7] }; // where allocated and used stand in a line of figures

const place = document.getElementById("node-map");
const names = place && document.getElementById(place.dataset.names);
const figures = place && document.getElementById(place.dataset.figures);
const nobody = document.getElementById("map-none");
const kinds = document.querySelectorAll("[data-map]");

let kind = new URL(location.href).searchParams.get("map") in SHARES ? new URL(location.href).searchParams.get("map") : "cpu";
let nodes = []; // [id, cores, GB, GPUs, name]
let lines = []; // figures of each
let tiles = [];
let current = 0; // the tile that Tab comes to
let size = { width: 0, height: 0, columns: 1, wide: false };
let svg = null, tip = null;

if (place) painted.then(start);

function start() {
  svg = place.appendChild(make("svg", { role: "group", "aria-label": "Executors" }));
  tip = place.appendChild(document.createElement("div"));
  tip.className = "map-tip";
  tip.hidden = true;
  svg.addEventListener("pointerover", (event) => point(event.target.closest("a")));
  svg.addEventListener("pointerleave", () => point(svg.contains(document.activeElement) ? document.activeElement : null));
  svg.addEventListener("focusin", (event) => point(event.target.closest("a")));
  svg.addEventListener("focusout", () => point(null));
  svg.addEventListener("keydown", walk);
  for (const button of kinds) button.addEventListener("click", () => show(button.dataset.map));
  const watch = { childList: true, characterData: true, subtree: true };
  new MutationObserver(readNames).observe(names, watch);
  new MutationObserver(readFigures).observe(figures, watch);
  new ResizeObserver(() => place.clientWidth !== size.room && layOut()).observe(place);
  readNames();
  show(kind, false);
}

function readNames() {
  nodes = names.textContent ? names.textContent.split("\n").map((line) => split(line, 5)) : [];
  nobody.hidden = nodes.length > 0;
  while (tiles.length > nodes.length) tiles.pop().link.remove();
  while (tiles.length < nodes.length) tiles.push(makeTile(tiles.length));
  current = Math.min(current, Math.max(0, nodes.length - 1));
  tiles.forEach((tile, index) => {
    set(tile.link, "href", `${place.dataset.base}${encodeURIComponent(nodes[index][0])}/`);
    set(tile.link, "tabindex", index === current ? "0" : "-1");
  });
  svg.setAttribute("aria-label", `${nodes.length} executors; arrow keys go from one to the next`);
  layOut();
  readFigures();
}

// At most `parts` parts: what is behind the last separator may hold more of them.
function split(line, parts) {
  const all = line.split("|");
  return [...all.slice(0, parts - 1), all.slice(parts - 1).join("|")];
}

function readFigures() {
  const fresh = figures.textContent ? figures.textContent.split("\n") : [];
  if (fresh.length !== nodes.length) return; // the names that belong to them are still on their way
  lines = fresh.map((line) => line.split("|"));
  paint();
}

function makeTile(index) {
  const link = svg.appendChild(make("a", { class: "node", tabindex: "-1" }));
  link.dataset.index = index;
  const tile = { link, ground: make("rect", { class: "node-ground" }), allocated: make("rect", { class: "node-allocated" }), used: make("rect", { class: "node-used" }), mark: make("path", { class: "node-mark" }), name: make("text", { class: "node-name" }) };
  link.append(tile.ground, tile.allocated, tile.used, tile.mark, tile.name);
  return tile;
}

function make(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function layOut() {
  const room = Math.max(60, place.clientWidth);
  const wide = nodes.length <= WIDE_UP_TO;
  let width, height, columns;
  if (wide) {
    columns = Math.max(1, Math.floor((room + GAP) / (WIDE + GAP)));
    width = Math.min(Math.floor((room + GAP) / columns) - GAP, 180);
    height = WIDE_HEIGHT;
  } else {
    const pitch = Math.max(SMALLEST + GAP, Math.min(LARGEST + GAP, Math.floor(Math.sqrt((room * MOST_HEIGHT) / nodes.length))));
    width = height = pitch - GAP;
    columns = Math.max(1, Math.floor((room + GAP) / pitch));
  }
  size = { room, width, height, columns, wide };
  const rows = Math.ceil(nodes.length / columns);
  svg.setAttribute("width", room);
  svg.setAttribute("height", Math.max(0, rows * (height + GAP) - GAP));
  paint();
}

function paint() {
  tiles.forEach((tile, index) => {
    const x = (index % size.columns) * (size.width + GAP), y = Math.floor(index / size.columns) * (size.height + GAP);
    const line = lines[index] ?? ["ONLINE", "0", "", "", "", "", "", ""];
    const [allocatedAt, usedAt] = SHARES[kind];
    const allocated = share(line[allocatedAt]), used = share(line[usedAt]);
    const inset = Math.max(2, Math.round(size.width * (size.wide ? 0.04 : 0.28)));
    box(tile.ground, x, y, size.width, size.height);
    box(tile.allocated, x, y + size.height - allocated, size.width, allocated);
    box(tile.used, x + (size.wide ? size.width - 2 * inset : inset), y + size.height - used, size.wide ? inset : size.width - 2 * inset, used);
    set(tile.mark, "d", mark(line[0], x, y));
    set(tile.link, "data-node", line[0]);
    set(tile.name, "x", x + 7);
    set(tile.name, "y", y + 18);
    const label = size.wide ? fitting(nodes[index][4], (size.width - 20) / 7) : "";
    if (tile.label !== label) tile.name.textContent = tile.label = label;
    set(tile.link, "aria-label", sentence(index));
  });
  if (!tip.hidden && tip.dataset.index) fill(Number(tip.dataset.index));
}

function share(text) {
  return text ? Math.round((Number(text) / 100) * size.height) : 0;
}

function box(element, x, y, width, height) {
  set(element, "x", x);
  set(element, "y", y);
  set(element, "width", width);
  set(element, "height", height);
}

// Only what changed is written: a thousand tiles hold ten thousand attributes.
function set(element, name, value) {
  const now = (element.now ??= {});
  if (now[name] === value) return;
  now[name] = value;
  element.setAttribute(name, value);
}

function fitting(name, letters) {
  return name.length > letters ? `${name.slice(0, Math.max(1, Math.floor(letters) - 1))}…` : name;
}

function mark(state, x, y) {
  const w = size.width, h = size.height, inner = Math.min(w, h) * 0.24;
  if (state === "LOST") return `M${x + w / 2 - inner} ${y + h / 2 - inner}l${2 * inner} ${2 * inner}m0 ${-2 * inner}l${-2 * inner} ${2 * inner}`;
  if (state === "UNHEALTHY") return `M${x + w / 2} ${y + h * 0.22}v${h * 0.34}m0 ${h * 0.14}v${h * 0.08}`;
  if (state === "ONLINE") return "";
  return `M${x + w * 0.25} ${y + h / 2}h${w * 0.5}`; // closed to new jobs: a bar
}

// --- What a tile says

function sentence(index) {
  const [, , , gpus, name] = nodes[index], line = lines[index];
  if (!line) return name;
  const parts = [`${name}, ${WORDS[line[0]] ?? line[0].toLowerCase()}`, `${line[1]} ${line[1] === "1" ? "job" : "jobs"}`];
  parts.push(`CPU ${line[2] || 0} % allocated${line[3] ? `, ${line[3]} % in use` : ""}`);
  parts.push(`memory ${line[4] || 0} % allocated${line[5] ? `, ${line[5]} % in use` : ""}`);
  if (gpus !== "0") parts.push(`GPUs ${line[6] || 0} % allocated${line[7] ? `, ${line[7]} % busy` : ""}`);
  return parts.join("; ");
}

function point(link) {
  if (!link?.dataset.index) {
    tip.hidden = true;
    return;
  }
  fill(Number(link.dataset.index));
}

function fill(index) {
  const node = nodes[index], line = lines[index];
  if (!node || !line) return void (tip.hidden = true);
  const [, cores, gigabytes, gpus, name] = node;
  const rows = [["CPU", line[2], line[3], `${cores} cores`], ["Memory", line[4], line[5], `${gigabytes} GB`]];
  if (gpus !== "0") rows.push(["GPUs", line[6], line[7], gpus]);
  const title = document.createElement("strong");
  title.textContent = name;
  const state = document.createElement("span");
  state.className = "node-state";
  state.dataset.state = line[0];
  state.textContent = `${WORDS[line[0]] ?? line[0]} · ${line[1]} ${line[1] === "1" ? "job" : "jobs"}`;
  const table = document.createElement("dl");
  for (const [what, allocated, used, all] of rows) {
    const term = document.createElement("dt"), value = document.createElement("dd");
    term.textContent = what;
    value.textContent = `${allocated || 0} % of ${all}${used ? `, ${used} % in use` : ""}`;
    table.append(term, value);
  }
  tip.replaceChildren(title, state, table);
  tip.dataset.index = index;
  tip.hidden = false;
  const x = (index % size.columns) * (size.width + GAP), y = Math.floor(index / size.columns) * (size.height + GAP);
  tip.style.left = `${Math.max(0, Math.min(x, place.clientWidth - tip.offsetWidth))}px`;
  tip.style.top = `${y + size.height + 6}px`;
}

// --- Keyboard and buttons

function walk(event) {
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: size.columns, ArrowUp: -size.columns, Home: -current, End: nodes.length - 1 - current };
  if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const wanted = current + steps[event.key];
  if (wanted < 0 || wanted >= nodes.length) return;
  set(tiles[current].link, "tabindex", "-1");
  current = wanted;
  set(tiles[current].link, "tabindex", "0");
  tiles[current].link.focus();
}

function show(wanted, remember = true) {
  kind = wanted;
  for (const button of kinds) button.setAttribute("aria-pressed", String(button.dataset.map === kind));
  paint();
  if (!remember) return;
  const url = new URL(location.href);
  url.searchParams.set("map", kind);
  history.replaceState(history.state, "", url);
}
