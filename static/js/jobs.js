// The list of jobs: choosing rows, changing many at once, and rows that do not move while somebody is at them.
import { prepare } from "./live.js";

const bulk = document.getElementById("bulk");
const bulkDialog = document.getElementById("bulk-dialog");
const selected = new Set();
let allMatching = false; // chosen are all jobs that match, not only those shown
let anchor = null; // where a range with Shift begins

const list = () => document.getElementById("job-list");
const boxes = () => [...list().querySelectorAll("tbody .cell-select input")];

// --- Choosing ---

document.addEventListener("click", (event) => {
  const box = event.target.closest(".cell-select input");
  if (!box || !list().contains(box)) return;
  if (box.id === "select-page") {
    for (const each of boxes()) choose(each, box.checked);
  } else {
    const all = boxes();
    const from = event.shiftKey ? all.findIndex((each) => each.value === anchor) : -1;
    const to = all.indexOf(box);
    const range = from < 0 ? [box] : all.slice(Math.min(from, to), Math.max(from, to) + 1);
    for (const each of range) choose(each, box.checked);
    anchor = box.value;
  }
  allMatching = false;
  showChosen();
});

function choose(box, on) {
  box.checked = on;
  if (on) selected.add(box.value);
  else selected.delete(box.value);
}

function clear() {
  selected.clear();
  allMatching = false;
  for (const box of boxes()) box.checked = false;
  showChosen();
}

function showChosen() {
  const page = boxes();
  const header = document.getElementById("select-page");
  if (header) {
    header.checked = page.length > 0 && page.every((box) => box.checked);
    header.indeterminate = !header.checked && page.some((box) => box.checked);
  }
  const { count, more } = list().dataset;
  const total = Number(count);
  bulk.hidden = selected.size === 0;
  document.getElementById("bulk-count").textContent = allMatching
    ? `${more === undefined ? "All" : "The newest"} ${total.toLocaleString()} that match`
    : `${selected.size} selected`;
  const all = document.getElementById("bulk-all");
  all.hidden = allMatching || total <= page.length || selected.size < page.length;
  all.textContent = `Select ${more === undefined ? "all" : "the newest"} ${total.toLocaleString()} that match`;
}

document.getElementById("bulk-all").addEventListener("click", () => {
  allMatching = true;
  showChosen();
});
document.getElementById("bulk-none").addEventListener("click", clear);

bulk.addEventListener("htmx:configRequest", (event) => {
  event.detail.parameters.set("ids", allMatching ? "" : [...selected].join(","));
  event.detail.parameters.set("query", allMatching ? list().dataset.query : "-");
  event.detail.parameters.set("back", location.search);
});
bulk.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) bulkDialog.showModal();
});

// --- Another filter, another page ---

const more = document.querySelector(".more-filters");
document.addEventListener("click", (event) => more.contains(event.target) || (more.open = false));
more.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !more.open) return;
  more.open = false;
  more.querySelector("summary").focus();
});

document.addEventListener("htmx:afterSettle", (event) => {
  if (event.target.id !== "job-list" && event.detail.target?.id !== "job-list") return;
  waiting = null;
  clear();
  for (const link of document.querySelectorAll("[data-view]")) {
    if (new URL(link.href).search === list().dataset.query) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const input of document.querySelectorAll("[data-current-query]")) input.value = list().dataset.query;
});

// --- Live rows: what is there changes in place; what is new waits while somebody is at the rows ---

let waiting = null; // the newest list that came meanwhile
let pointerInside = false;

prepare("job-list", (old, fresh) => {
  for (const box of fresh.querySelectorAll("tbody .cell-select input")) box.checked = selected.has(box.value);
  if (!busy(old)) {
    waiting = null;
    queueMicrotask(showChosen);
    return fresh;
  }
  const steady = withoutMoving(old, fresh);
  waiting = steady ? fresh.cloneNode(true) : null;
  queueMicrotask(showChosen);
  return steady ?? fresh;
});

function busy(old) {
  const table = old.querySelector("tbody");
  if (!table) return false;
  return pointerInside || selected.size > 0 || table.contains(document.activeElement) || table.getBoundingClientRect().top < 0;
}

// `fresh` with the rows of `old` in their places: new ones left out and counted, those that went kept and marked.
// Null where nothing would move.
function withoutMoving(old, fresh) {
  const shown = [...old.querySelectorAll("tbody tr[id]")];
  const coming = new Map([...fresh.querySelectorAll("tbody tr[id]")].map((row) => [row.id, row]));
  const order = [...coming.keys()].join();
  if (!coming.size || shown.map((row) => row.id).join() === order) return null;
  const here = new Set(shown.map((row) => row.id));
  const added = [...coming.keys()].filter((id) => !here.has(id)).length;
  const last = [...coming.keys()].at(-1);
  const steady = fresh.cloneNode(true);
  steady.querySelector("tbody").replaceChildren(
    ...shown.map((row) => {
      const current = (coming.get(row.id) ?? row).cloneNode(true);
      if (!coming.has(row.id) && row.id > last) current.dataset.left = "";
      const box = current.querySelector(".cell-select input");
      if (box) box.checked = selected.has(box.value);
      return current;
    }),
  );
  steady.querySelector(".list-head").append(newsButton(added));
  return steady;
}

function newsButton(added) {
  const button = document.createElement("button");
  button.type = "button";
  button.id = "list-news";
  button.className = "list-news";
  button.textContent = added ? `${added} new` : "Changed: refresh";
  return button;
}

document.addEventListener("click", (event) => {
  if (!event.target.closest("#list-news")) return;
  clear();
  scrollTo({ top: 0 });
  settle();
});

function settle() {
  if (!waiting) return;
  const fresh = waiting;
  waiting = null;
  Idiomorph.morph(list(), fresh);
  htmx.process(list());
  showChosen();
}

document.addEventListener("pointerover", (event) => {
  if (event.pointerType === "touch") return;
  pointerInside = Boolean(event.target.closest?.("#job-list tbody"));
  if (!pointerInside) setTimeout(() => waiting && !busy(list()) && settle(), 600);
});
document.documentElement.addEventListener("pointerleave", () => (pointerInside = false));
