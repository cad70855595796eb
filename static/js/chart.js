// The charts of a page's #charts: columns from [data-history], drawn by uPlot, one cursor over all of them. New points come
// with the page's socket (in the element named by [data-newest]); where there is none, the columns are fetched anew.

import { painted } from "./painted.js";

const SECONDS = { "15m": 900, "1h": 3600, "6h": 21600, "24h": 86400 };
const RETRY_MS = 10000;
const HEIGHT = 128;

// name of the column, what it is called, its colour, and how it is drawn
const KINDS = {
  cpu: resource("cpu"),
  memory: resource("memory"),
  gpu: resource("gpu"),
  queue: [line("pending", "pending", "--pending"), area("running", "running", "--running")],
  waits: [area("wait_p50", "p50", "--accent"), line("wait_p95", "p95", "--failed")],
  throughput: [area("succeeded", "succeeded", "--succeeded"), line("failed", "failed", "--failed")],
  held: [area("held", "running", "--running")],
};

function resource(name) {
  return [
    { column: `${name}_capacity`, label: "of", token: "--ink-soft", width: 1, dash: [4, 3] },
    area(`${name}_allocated`, "allocated", "--bar-allocated"),
    line(`${name}_used`, "in use", "--bar-used"),
  ];
}

function line(column, label, token) {
  return { column, label, token, width: 1.5 };
}

function area(column, label, token) {
  return { column, label, token, width: 1.5, fill: true };
}

const root = document.getElementById("charts");
const note = document.getElementById("charts-note");
const newest = root?.dataset.newest ? document.getElementById(root.dataset.newest) : null;
const figures = root ? [...root.querySelectorAll("[data-chart]")] : [];
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const exact = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

let range = root?.querySelector("[aria-current]")?.dataset.range ?? "1h";
let columns = null;
let plots = [];
let timer = 0;
let asked = 0; // which request's answer counts

if (root) painted.then(start);

function start() {
  root.querySelector(".ranges").addEventListener("click", choose);
  new MutationObserver(paintAnew).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintAnew);
  new ResizeObserver(fit).observe(root);
  document.addEventListener("visibilitychange", () => document.hidden || load());
  if (newest) new MutationObserver(append).observe(newest, { childList: true, characterData: true, subtree: true });
  load();
}

function choose(event) {
  const link = event.target.closest("[data-range]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  range = link.dataset.range;
  for (const other of root.querySelectorAll("[data-range]")) {
    if (other === link) other.setAttribute("aria-current", "true");
    else other.removeAttribute("aria-current");
  }
  const url = new URL(location.href);
  url.searchParams.set("range", range);
  history.replaceState(history.state, "", url);
  load();
}

async function load() {
  clearTimeout(timer);
  const mine = ++asked;
  let wait = RETRY_MS;
  try {
    const answer = await fetch(`${root.dataset.history}?range=${range}`, { headers: { Accept: "application/json" } });
    if (mine !== asked) return;
    if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
    columns = await answer.json();
    if (mine !== asked) return;
    say(columns.t.length ? "" : "No history yet: a point is recorded every ten seconds.");
    draw();
    wait = newest ? 0 : columns.step * 1000;
  } catch {
    if (mine !== asked) return;
    say("The history cannot be read now; trying again.");
  }
  if (wait) timer = setTimeout(() => document.hidden || load(), wait);
}

// A new point: appended where the charts show every point, else a reason to fetch once a row is full.
function append() {
  if (!columns || document.hidden || !newest.textContent) return;
  const row = JSON.parse(newest.textContent);
  const last = columns.t.at(-1) ?? 0;
  if (row.t < last + columns.step) return;
  if (columns.step > 10 || row.t > last + 3 * columns.step) return void load();
  for (const [name, values] of Object.entries(columns)) if (Array.isArray(values)) values.push(row[name] ?? null);
  while (columns.t[0] < row.t - SECONDS[range]) for (const values of Object.values(columns)) if (Array.isArray(values)) values.shift();
  columns.to = row.t;
  columns.from = row.t - SECONDS[range];
  say("");
  draw();
}

function say(sentence) {
  if (note.textContent !== sentence) note.textContent = sentence;
}

// --- Drawing

function draw() {
  if (!plots.length) plots = figures.map(make);
  for (const plot of plots) plot.setData(dataOf(plot.figure), true);
  for (const plot of plots) describe(plot);
  root.dataset.points = columns.t.length;
}

function dataOf(figure) {
  return [columns.t, ...KINDS[figure.dataset.chart].map((series) => columns[series.column] ?? columns.t.map(() => null))];
}

function make(figure) {
  const place = figure.querySelector(".chart-plot");
  const soft = colour("--ink-soft"), grid = colour("--line");
  const axis = { stroke: soft, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const plot = new uPlot(
    {
      width: place.clientWidth || 300,
      height: HEIGHT,
      legend: { show: false },
      padding: [8, 18, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 }, sync: { key: "time" } },
      scales: { x: { time: true, range: () => [columns.from, columns.to] }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] } },
      axes: [
        { ...axis, size: 22, space: 64, values: (_, moments) => moments.map((moment) => clock.format(moment * 1000)) },
        { ...axis, size: 40, space: 28, values: (_, values) => values.map(short) },
      ],
      series: [{}, ...KINDS[figure.dataset.chart].map(seriesOf)],
      hooks: { setCursor: [describe] },
    },
    dataOf(figure),
    place,
  );
  plot.figure = figure;
  plot.moment = document.createElement("span");
  plot.moment.className = "chart-moment";
  describe(plot);
  return plot;
}

function seriesOf(series) {
  const stroke = colour(series.token);
  return {
    stroke,
    width: series.width,
    dash: series.dash,
    fill: series.fill ? stroke.replace("rgb(", "rgba(").replace(")", ", 0.22)") : undefined,
    points: { show: (plot, _, first, last) => last - first < 3, size: 4 },
  };
}

// The values under the cursor, or the newest, in the caption; the moment under the cursor on the axis of time.
function describe(plot) {
  const figure = plot.figure;
  if (!figure) return;
  const at = plot.cursor.idx ?? plot.data[0].length - 1;
  const series = KINDS[figure.dataset.chart];
  const values = series.map((item, place) => ({ ...item, value: plot.data[place + 1][at] ?? null }));
  const shown = figure.querySelector(".chart-values");
  const nothing = figure.dataset.chart === "gpu" && plot.data[1].every((value) => !value);
  const words = nothing ? [] : values.filter((item) => item.value !== null || item.label !== "of");
  shown.replaceChildren(
    ...words.map((item) => {
      const part = document.createElement("span");
      part.className = "chart-value";
      part.dataset.series = item.token.slice(2);
      part.textContent = item.label === "of" ? `of ${short(item.value)}` : `${item.label} ${item.value === null ? "–" : short(item.value)}`;
      return part;
    }),
  );
  if (nothing) shown.textContent = "none";
  const moment = plot.data[0][at];
  if (plot.cursor.idx != null && moment) {
    plot.moment.textContent = exact.format(moment * 1000);
    plot.over.parentElement.append(plot.moment);
    const left = plot.over.offsetLeft + plot.valToPos(moment, "x") - plot.moment.offsetWidth / 2;
    plot.moment.style.left = `${Math.max(0, Math.min(left, plot.width - plot.moment.offsetWidth))}px`;
  } else {
    plot.moment.remove();
    const name = figure.querySelector(".chart-name").textContent;
    figure.querySelector(".chart-plot").setAttribute("aria-label", `${name} over the last ${range}, in ${figure.dataset.unit}. Now: ${shown.innerText || "nothing"}`);
  }
}

function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  return String(+value.toPrecision(size >= 100 ? 4 : 3));
}

function fit() {
  for (const plot of plots) {
    const width = plot.figure.querySelector(".chart-plot").clientWidth;
    if (width && width !== plot.width) plot.setSize({ width, height: HEIGHT });
  }
}

function paintAnew() {
  if (!plots.length) return;
  for (const plot of plots) plot.destroy();
  plots = [];
  draw();
}

// A token's colour as rgb(…), whatever light-dark() makes of it now.
function colour(token) {
  root.style.color = `var(${token})`;
  const value = getComputedStyle(root).color;
  root.style.color = "";
  return value;
}
