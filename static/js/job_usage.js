// What a job's containers use, over its life, with the limits drawn in. Data comes from [data-usage], see jobs/usage.py.

import { painted } from "./painted.js";

const EVERY = 5000;
const SYNC = "job-usage";
const TICK_SECONDS = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 604800];
const BYTE_STEPS = Array.from({ length: 45 }, (_, power) => 2 ** power); // so that an axis says 256 MB, not 238

const panel = document.getElementById("job-usage");
const charts = new Map(); // element -> uPlot
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
let newest = null;

const KINDS = {
  cpu: { lines: [["cpu", "--bar-used", true]], limited: true, format: (value) => `${trim(value)} core${value === 1 ? "" : "s"}` },
  memory: { lines: [["memory", "--bar-used", true]], limited: true, steps: BYTE_STEPS, format: bytes },
  gpu: { lines: [["gpu", "--bar-used", true]], limited: true, format: (value) => `${trim(value)} %` },
  gpu_memory: { lines: [["gpu_memory", "--bar-used", true]], limited: true, steps: BYTE_STEPS, format: bytes },
  network: { lines: [["received", "--bar-used", true], ["sent", "--starting", false]], steps: BYTE_STEPS, format: (value) => `${bytes(value)}/s` },
  disk: { lines: [["read", "--bar-used", true], ["written", "--starting", false]], steps: BYTE_STEPS, format: (value) => `${bytes(value)}/s` },
};
const ALWAYS = ["cpu", "memory"]; // drawn also where they are nothing

function trim(value) {
  return String(Number(value.toFixed(value < 1 ? 3 : 2)));
}

function bytes(value) {
  let unit = "B";
  for (const larger of ["kB", "MB", "GB", "TB"]) {
    if (value < 1000) break;
    value /= 1024;
    unit = larger;
  }
  return `${value < 10 ? Number(value.toFixed(1)) : Math.round(value)} ${unit}`;
}

const colour = (token) => getComputedStyle(document.documentElement).getPropertyValue(token).trim();

// light-dark() is resolved by the browser only where it is used as a colour.
function resolved(token) {
  const probe = document.createElement("span");
  probe.style.color = `var(${token})`;
  panel.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value || colour(token);
}

function draw(figure, usage) {
  const kind = KINDS[figure.dataset.chart];
  const { columns, limits } = usage;
  const limit = limits[figure.dataset.chart] ?? null;
  const data = [columns.t, ...kind.lines.map(([name]) => columns[name])];
  if (limit !== null) data.push(columns.t.map(() => limit));
  const known = charts.get(figure);
  if (known) return known.setData(data);
  const place = figure.querySelector(".usage-plot");
  const ink = resolved("--ink-soft");
  const grid = { stroke: resolved("--line"), width: 1 };
  const series = kind.lines.map(([name, token, filled]) => ({
    label: name,
    stroke: resolved(token),
    width: 1.5,
    fill: filled ? resolved(token).replace(/^rgb\((.*)\)$/, "rgba($1, .15)") : undefined,
    points: { show: false },
  }));
  if (limit !== null) series.push({ label: "limit", stroke: resolved("--failed"), width: 1, dash: [5, 4], points: { show: false } });
  const told = figure.querySelector(".usage-now");
  const options = {
    width: place.clientWidth,
    height: 130,
    legend: { show: false },
    cursor: { sync: { key: SYNC }, y: false },
    scales: { y: { range: (_, low, high) => [0, Math.max(high, limit ?? 0, 0.001) * 1.08] } },
    axes: [
      { stroke: ink, grid, ticks: grid, incrs: TICK_SECONDS, values: (_, ticks) => ticks.map((tick) => clock.format(tick * 1000)), space: 80 },
      { stroke: ink, grid, ticks: grid, size: 74, ...(kind.steps ? { incrs: kind.steps } : {}), values: (_, ticks) => ticks.map(kind.format) },
    ],
    series: [{}, ...series],
    hooks: {
      setCursor: [
        (plot) => {
          const at = plot.cursor.idx;
          const shown = at === null || at === undefined ? null : kind.lines.map(([name]) => newest.columns[name][at]);
          told.textContent = shown?.every((value) => value !== null) ? `${clock.format(newest.columns.t[at] * 1000)}: ${shown.map(kind.format).join(", ")}` : told.dataset.peak ?? "";
        },
      ],
    },
  };
  charts.set(figure, new uPlot(options, data, place));
}

// The highest value, or what it was in all.
function say(figure, usage) {
  const name = figure.dataset.chart, kind = KINDS[name];
  const told = figure.querySelector(".usage-now");
  const peak = usage.peaks[name] ?? null, limit = usage.limits[name] ?? null;
  if (!kind.limited) told.dataset.peak = kind.lines.map(([line]) => bytes(usage.sums[line])).join(" and ");
  else told.dataset.peak = peak === null ? "" : `at most ${kind.format(peak)}${limit === null || name === "gpu" ? "" : ` of ${kind.format(limit)}`}`;
  told.textContent = told.dataset.peak;
}

function isSeen(name, usage, drawn) {
  const { lines, limited } = KINDS[name];
  if (drawn && ALWAYS.includes(name)) return true;
  return limited ? (usage.peaks[name] ?? null) !== null : lines.some(([line]) => usage.sums[line] > 0);
}

function show(usage) {
  newest = usage;
  const drawn = usage.columns.t.length > 1;
  panel.hidden = !drawn && usage.peaks.memory === null;
  if (panel.hidden) return;
  document.getElementById("usage-gone").hidden = drawn || !isFinal();
  for (const figure of panel.querySelectorAll("[data-chart]")) {
    figure.hidden = !isSeen(figure.dataset.chart, usage, drawn);
    figure.toggleAttribute("data-gone", !drawn);
    if (figure.hidden) continue;
    if (drawn) draw(figure, usage);
    say(figure, usage);
  }
  document.getElementById("usage-advice").replaceChildren(
    ...usage.advice.map((sentence) => {
      const item = document.createElement("li");
      item.textContent = sentence;
      return item;
    }),
  );
}

function isFinal() {
  return document.querySelector(".job-head")?.hasAttribute("data-final");
}

async function load() {
  const final = isFinal();
  try {
    const answer = await fetch(panel.dataset.usage);
    if (answer.ok) show(await answer.json());
  } catch {
    // Away: asked again shortly.
  }
  if (!final) setTimeout(load, EVERY);
}

function anew() {
  for (const plot of charts.values()) plot.destroy();
  charts.clear();
  if (newest) show(newest);
}

new MutationObserver(anew).observe(document.documentElement, { attributeFilter: ["data-theme"] });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", anew);
addEventListener("resize", () => {
  for (const [figure, plot] of charts) plot.setSize({ width: figure.querySelector(".usage-plot").clientWidth, height: 130 });
});
painted.then(load);
