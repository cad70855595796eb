// The log of a job's page: what is followed, searched and selected, and the tools above it. Lines have absolute numbers, so
// that nothing is shown twice or left out after a reconnect.
import { onLive, send } from "./live.js";
import { ScrollMarks } from "./log_marks.js";
import { drawRow } from "./log_row.js";
import { LineMap } from "./log_rows.js";
import { LogSearch } from "./log_search.js";
import { fromHash, Selection } from "./log_selection.js";
import { LineStore, parse } from "./log_store.js";
import { isMode, nextMode } from "./log_times.js";
import { LogView } from "./log_view.js";

const TYPING = 350; // ms of rest after which what was typed is searched for
const CALM_LINES = 3; // a second: more than that is not read out

const part = (name) => document.getElementById(`log-${name}`);
const log = document.getElementById("log");

const store = new LineStore(log.dataset.lines, () => arrived(), (sentence) => complain("fetch", sentence));
const search = new LogSearch(log.dataset.search, log.dataset.spans, store, { changed: found, marked: (lines) => view.redraw((row) => lines.has(row.line)), failed: (sentence) => complain("search", sentence) });
const selection = new Selection(part("selection"), store, () => view.redraw() ?? showMarks());
const marks = new ScrollMarks(part("marks"));
const state = { store, search, selection, times: remembered("times", "off", isMode), began: "" };
const view = new LogView(log, { draw: (line, before) => drawRow(line, before, state), shown, scrolled });

let following = selection.range === null; // whoever comes for a line stays there
let goTo = selection.range; // the lines to be shown as soon as it is known that there are any
let seenTotal = 0; // lines there were when the end was last in view
let only = false; // show only what matches
let reading = { line: 0, beyond: 0 }; // what is at the top, or was before nothing was left to show
let neverRan = false; // and never will
let former = null; // where the reader was before a search that was only typed led elsewhere

// --- Lines come --------------------------------------------------------------------------------------------------

onLive("log", receive, () => ({ log_offset: following ? store.total || "" : "off" }));

function receive(page) {
  const before = store.total;
  part("expected")?.remove();
  store.take(page, true);
  send({ logged: true });
  if (before === 0) seenTotal = store.total;
  arrived(store.total - before);
  if (goTo && store.total) {
    const { from, to } = goTo;
    goTo = null;
    view.showLine(from, from === to ? 0.4 : 0.2);
  }
  search.grown();
}

// What was printed of a line that never ended goes with the container, even where no agent is left to say so.
const top = document.querySelector(".job-top");
function watchState() {
  const head = top.querySelector(".job-head");
  const running = head.dataset.state === "RUNNING";
  neverRan = "neverRan" in head.dataset;
  if (neverRan) describe();
  if (running === store.running) return;
  store.running = running;
  if (store.unfinished.length) arrived();
}
new MutationObserver(watchState).observe(top, { subtree: true, childList: true, attributeFilter: ["data-state"] });

function arrived(count = 0) {
  readOut(count);
  if (following) seenTotal = store.total;
  const width = Math.max(3, String(store.total).length);
  log.style.setProperty("--digits", width);
  view.pinned = following;
  for (const [index, row] of view.rows) if (row.unfinished || (!row.ready && store.get(row.line) !== undefined)) view.forget(index);
  const missing = `${store.dropped} ${store.gaps.length}`;
  view.show(rows(), missing === arrived.missing);
  arrived.missing = missing;
  describe();
  showMarks();
}

function place() {
  if (view.map.rows) reading = view.topLine();
  return reading;
}

function rows() {
  return only && search.active ? LineMap.around(search.hits, Number(part("context").value), store) : LineMap.whole(store);
}

function shown(lines) {
  if (goTo) return; // about to be elsewhere
  const finished = lines.filter((line) => line < store.total);
  store.want(finished);
  if (search.active) search.want(finished);
}

let calm = { since: 0, lines: 0 };
function readOut(count) {
  if (performance.now() - calm.since > 1000) calm = { since: performance.now(), lines: 0 };
  calm.lines += count;
  log.ariaLive = following && calm.lines <= CALM_LINES && !store.tails.length ? "polite" : "off";
}

function describe() {
  const { total, dropped, complete } = store;
  const rowsNow = view.map.rows;
  const words = `${number(total)} line${total === 1 ? "" : "s"}`;
  const gone = dropped ? `, the first ${number(dropped)} are gone` : "";
  part("count").textContent = only && search.active ? `${words}, ${number(rowsNow)} shown` : words + gone;
  part("count").title = dropped ? "They were lost before they were archived." : "";
  part("empty").hidden = rowsNow > 0;
  part("empty").firstElementChild.textContent = total ? (search.done ? "No line matches." : "Searching…") : nothing(complete);
  const unseen = Math.max(0, total - seenTotal);
  part("new").hidden = following || !unseen;
  part("new").textContent = `↓ ${number(unseen)} new line${unseen === 1 ? "" : "s"}`;
}

function nothing(complete) {
  if (neverRan) return "The job never ran, so it printed nothing.";
  return complete ? "The job printed nothing." : "No output yet. Lines appear here as the job prints them.";
}

// One place for what is not as it should be; `kind` keeps them apart.
const complaints = {};
function complain(kind, sentence) {
  if ((complaints[kind] ?? "") === sentence) return;
  complaints[kind] = sentence;
  if (kind === "search") describeHits();
  const all = Object.values(complaints).filter(Boolean).join(" ");
  part("notice").hidden = !all;
  part("notice").textContent = all;
}

// --- Follow ------------------------------------------------------------------------------------------------------

function follow(wanted) {
  if (following === wanted) return;
  following = wanted;
  goTo = former = null;
  press(part("follow"), wanted);
  seenTotal = store.total;
  view.pin(wanted);
  send({ follow: wanted ? store.total : false });
  describe();
}

// Scrolling up lets go of the end, scrolling down to it takes hold again.
function scrolled({ up, atEnd }) {
  goTo = former = null;
  if (up) follow(false);
  else if (atEnd) follow(true);
  if (atEnd) seenTotal = store.total;
}

part("follow").addEventListener("click", () => follow(!following));
part("new").addEventListener("click", () => {
  follow(true);
  log.focus({ preventScroll: true });
});

function showLine(line, where) {
  former = null;
  follow(false);
  view.showLine(line, where);
}

// --- Search ------------------------------------------------------------------------------------------------------

const input = part("query");
let typing = null;
let jump = ""; // go to the first match when it is found: it was "asked" for, or only "typed"

function begin(andJump) {
  clearTimeout(typing);
  const wanted = { regex: pressed("regex"), matchCase: pressed("case") };
  const key = JSON.stringify([input.value, wanted]);
  if (key === begin.key) return false;
  begin.key = key;
  jump = andJump;
  place();
  complain("search", "");
  search.start(input.value, wanted);
  return true;
}

function found({ begun }) {
  for (const name of ["previous", "next", "only", "context"]) part(name).disabled = !search.active;
  if (only && !search.active) {
    only = false;
    press(part("only"), false);
    view.show(rows(), false);
    if (!following) view.showTop(reading);
  }
  if (begun) view.redraw();
  if (only || begun) view.show(rows(), !(begun && only));
  if (jump && search.hits.length && (search.done || search.hits.at(-1) >= place().line)) goToFirst();
  else if (!begun && search.done) jump = ""; // what matches later moves nobody
  if (!begun) view.redraw((row) => search.isHit(row.line) && !("hit" in row.element.dataset));
  describeHits();
  describe();
  showMarks();
}

function describeHits() {
  const count = search.hits.length, at = search.current >= 0 ? `${number(search.current + 1)} of ` : "";
  let words = "";
  if (complaints.search) words = "";
  else if (search.active && !search.done) words = `${number(count)}… ${Math.floor(100 * search.progress)} %`;
  else if (search.active) words = count ? `${at}${number(count)}${search.full ? "+" : ""}` : "no match";
  part("hits").textContent = words;
  if (search.active && search.done && !complaints.search) part("say").textContent = count ? `${at}${number(count)} matches` : "No match";
}

function goToFirst() {
  const before = jump === "typed" ? former ?? { following, ...place() } : null;
  step(1);
  former = before;
}

function step(by) {
  jump = "";
  former = null;
  const before = search.currentLine;
  const line = search.move(by, place().line);
  if (line === null) return;
  follow(false);
  if (!view.isInView(line)) view.showLine(line);
  view.redraw((row) => row.line === before || row.line === line);
  describeHits();
  showMarks();
}

function filter(wanted) {
  only = wanted && search.active;
  press(part("only"), only);
  const line = search.currentLine, was = place();
  if (only && !following) view.pinned = false;
  view.show(rows(), false);
  if (!following && view.map.rows) line === null ? view.showTop(was) : view.showLine(line);
  describe();
  showMarks();
}

function showMarks() {
  marks.show(search.active && !only ? search.hits : [], only ? null : search.currentLine, only ? null : selection.range, (line) => view.map.rowOf(line) / Math.max(1, view.map.rows));
}

input.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => begin(input.value && "typed"), input.value ? TYPING : 0);
});
part("find").addEventListener("submit", (event) => event.preventDefault());
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    event.preventDefault();
    if (!begin("asked")) again(event.shiftKey);
  } else if (event.key === "Escape") {
    event.preventDefault();
    stop();
  }
});

// Enter: where typing alone led to the first match, or will, that is now wanted; else to the next.
function again(backwards) {
  if (jump) jump = "asked";
  else if (former && !backwards) former = null;
  else step(backwards ? -1 : 1);
}

// Where the reader went nowhere else since, back to where the typing began.
function stop() {
  const back = former;
  former = null;
  input.value = "";
  begin("");
  if (back?.following) follow(true);
  else if (back) view.showTop(back);
  log.focus({ preventScroll: true });
}

part("next").addEventListener("click", () => step(1));
part("previous").addEventListener("click", () => step(-1));
part("only").addEventListener("click", () => filter(!only));
part("context").addEventListener("change", () => only && filter(true));
for (const name of ["case", "regex"]) {
  part(name).addEventListener("click", () => {
    press(part(name), !pressed(name));
    begin("");
  });
}

// --- How it looks, remembered -------------------------------------------------------------------------------------

function remembered(name, otherwise, fits) {
  try {
    const value = localStorage.getItem(`log-${name}`);
    return fits(value) ? value : otherwise;
  } catch {
    return otherwise; // no storage
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`log-${name}`, value);
  } catch {
    // No storage: it holds for this page.
  }
}

function setWrap(wrap) {
  press(part("wrap"), wrap);
  log.toggleAttribute("data-wrap", wrap);
  view.setWrap(wrap);
}

async function setTimes(mode) {
  state.times = part("times").value = mode;
  log.dataset.times = mode;
  if (mode === "relative" && !state.began) {
    const page = await store.read(0, 1).catch(() => null);
    state.began = page?.lines.length ? parse(page.lines[0]).stamp : "";
  }
  view.setWrap(view.wrap);
}

part("wrap").addEventListener("click", () => changeWrap());
part("times").addEventListener("change", () => changeTimes(part("times").value));

function changeWrap() {
  setWrap(!view.wrap);
  remember("wrap", view.wrap ? "on" : "off");
}

function changeTimes(mode) {
  setTimes(mode);
  remember("times", mode);
}

// --- Lines by number ---------------------------------------------------------------------------------------------

log.addEventListener("click", (event) => {
  const chosen = event.target.closest("a.number");
  if (!chosen || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  follow(false);
  selection.choose(Number(chosen.parentElement.dataset.line), event.shiftKey);
});
log.addEventListener("mousedown", (event) => event.shiftKey && event.target.closest("a.number") && event.preventDefault());

addEventListener("hashchange", () => {
  const range = fromHash(location.hash);
  if (!range) return;
  selection.set(range, false);
  if (only) filter(false);
  showLine(range.from, range.from === range.to ? 0.4 : 0.2);
});

// --- Keyboard ----------------------------------------------------------------------------------------------------

const KEYS = {
  f: () => follow(!following),
  g: () => showLine(view.map.lineAt(0), 0),
  G: () => follow(true),
  w: changeWrap,
  t: () => changeTimes(nextMode(state.times)),
  n: () => step(1),
  N: () => step(-1),
  o: () => search.active && filter(!only),
  "/": () => input.select() ?? input.focus(),
  Escape: () => (selection.range ? selection.set(null) : search.active && stop()),
};

log.addEventListener("keydown", (event) => {
  const mod = event.ctrlKey || event.metaKey;
  if (mod && event.key === "a") selection.chooseAll();
  else if (mod && event.key === "c" && selection.range && getSelection().isCollapsed) selection.copy();
  else if (event.key === "Enter" && search.active) step(event.shiftKey ? -1 : 1);
  else if (!mod && !event.altKey && KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
});

function press(button, on) {
  button.setAttribute("aria-pressed", String(on));
}

function pressed(name) {
  return part(name).getAttribute("aria-pressed") === "true";
}

function number(value) {
  return value.toLocaleString("en");
}

watchState();
press(part("follow"), following);
view.pinned = following;
setWrap(remembered("wrap", "off", (value) => value === "on") === "on");
setTimes(state.times);
