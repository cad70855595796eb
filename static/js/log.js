// The log of a job's page. Lines have absolute numbers, so that nothing is shown twice or left out after a reconnect.
import { plainStyle, render } from "./ansi.js";
import { onLive, send } from "./live.js";

const KEPT = 5000; // as jobs/consumers.py KEPT_LINES
const AT_ONCE = 1000;

const view = document.getElementById("log");
const list = document.getElementById("log-lines");
const count = document.getElementById("log-count");
const notice = document.getElementById("log-notice");
const earlier = document.getElementById("log-earlier");
const empty = document.getElementById("log-empty");
const newer = document.getElementById("log-new");

const styles = { stdout: plainStyle(), stderr: plainStyle() };
let first = null; // number of the first line shown
let next = null; // number of the line that comes next
let total = 0, dropped = 0, complete = false;
let following = true, paused = false, unseen = 0;
let held = null; // the page that came while paused: unanswered, so the server sends no more

onLive("log", receive, () => (next === null ? {} : { log_offset: next }));

function receive(page) {
  if (paused) {
    held = page;
    return;
  }
  total = page.total;
  dropped = page.dropped;
  complete = page.complete;
  if (next === null || page.first !== next) restart(page.first); // what lies between is behind 'load earlier'
  append(page.lines, page.cut);
  send({ logged: next });
  describe();
}

function restart(line) {
  list.replaceChildren();
  first = next = line;
  unseen = 0;
}

function append(lines, cut = 0) {
  if (!lines.length) return;
  const fragment = document.createDocumentFragment();
  for (const line of lines) fragment.append(element(line, styles));
  standsFor(fragment.lastElementChild, cut);
  list.append(fragment);
  next += lines.length + Math.max(0, cut - 1);
  if (following) {
    trim();
    view.scrollTop = view.scrollHeight;
  } else {
    unseen += lines.length;
    if (list.childElementCount > 2 * KEPT) trim();
  }
}

function trim() {
  const surplus = list.childElementCount - KEPT;
  for (let index = 0; index < surplus; index += 1) {
    first += Number(list.firstElementChild.dataset.standsFor ?? 1);
    list.firstElementChild.remove();
  }
}

// One line says what is missing where the log's middle was cut, and counts as all that is missing.
function standsFor(row, cut) {
  if (cut) row.dataset.standsFor = cut;
}

function element(line, styleOf) {
  const stampEnd = line.indexOf(" "), streamEnd = line.indexOf(" ", stampEnd + 1);
  const stamp = line.slice(0, stampEnd), stream = line.slice(stampEnd + 1, streamEnd), text = line.slice(streamEnd + 1);
  const row = document.createElement("div");
  row.className = "line";
  row.dataset.stream = stream === "stderr" ? "stderr" : "stdout";
  const time = document.createElement("time");
  time.textContent = localClock(stamp);
  time.title = stamp;
  const words = document.createElement("span");
  render(words, text, styleOf[row.dataset.stream]);
  row.append(time, words);
  return row;
}

function localClock(stamp) {
  const when = new Date(stamp);
  if (Number.isNaN(when.getTime())) return stamp;
  const two = (number) => String(number).padStart(2, "0");
  return `${two(when.getHours())}:${two(when.getMinutes())}:${two(when.getSeconds())}.${String(when.getMilliseconds()).padStart(3, "0")}`;
}

function describe() {
  const shown = next - first;
  const lines = `${total.toLocaleString("en")} line${total === 1 ? "" : "s"}`;
  count.textContent = total > shown ? `${lines}, ${shown.toLocaleString("en")} shown` : lines;
  notice.hidden = !dropped;
  if (dropped) notice.textContent = `The first ${dropped.toLocaleString("en")} lines are gone: they were lost before they were archived.`;
  earlier.hidden = first <= dropped;
  empty.hidden = total > 0;
  empty.firstElementChild.textContent = complete ? "The job printed nothing." : "No output yet. Lines appear here as the job prints them.";
  newer.hidden = following || !unseen;
  newer.textContent = `↓ ${unseen.toLocaleString("en")} new line${unseen === 1 ? "" : "s"}`;
}

earlier.addEventListener("click", async () => {
  earlier.disabled = true;
  try {
    const offset = Math.max(dropped, first - AT_ONCE);
    const response = await fetch(`${view.dataset.lines}?offset=${offset}&limit=${first - offset}`);
    if (!response.ok) throw new Error((await response.json()).detail);
    const page = await response.json();
    const lines = page.lines.slice(0, Math.max(0, first - page.first));
    const own = { stdout: plainStyle(), stderr: plainStyle() };
    const before = view.scrollHeight - view.scrollTop;
    follow(false);
    const rows = lines.map((line) => element(line, own));
    if (page.cut && rows[page.cut_at]) standsFor(rows[page.cut_at], page.cut);
    list.prepend(...rows);
    if (rows.length) first = page.first;
    dropped = Math.max(dropped, page.dropped);
    view.scrollTop = view.scrollHeight - before;
    describe();
  } catch (error) {
    notice.hidden = false;
    notice.textContent = `Earlier lines could not be loaded: ${error.message}`;
  } finally {
    earlier.disabled = false;
  }
});

function press(button, pressed) {
  button.setAttribute("aria-pressed", String(pressed));
}

const followButton = document.getElementById("log-follow");
function follow(wanted) {
  if (following === wanted) return;
  following = wanted;
  press(followButton, wanted);
  if (wanted) {
    unseen = 0;
    trim();
    view.scrollTop = view.scrollHeight;
  }
  describe();
}
followButton.addEventListener("click", () => follow(!following));
newer.addEventListener("click", () => follow(true));

// Scrolling up lets go of the end, scrolling down to it takes hold again. Only a person's scrolling counts, which
// begins with one of these; growing content scrolls too.
let touched = 0;
for (const kind of ["wheel", "touchmove", "keydown", "pointerdown"]) view.addEventListener(kind, () => (touched = Date.now()), { passive: true });
view.addEventListener("scroll", () => {
  if (Date.now() - touched > 1000) return;
  follow(view.scrollHeight - view.scrollTop - view.clientHeight < 24);
});

const pauseButton = document.getElementById("log-pause");
pauseButton.addEventListener("click", () => {
  paused = !paused;
  press(pauseButton, paused);
  pauseButton.textContent = paused ? "Resume" : "Pause";
  if (!paused && held) {
    const page = held;
    held = null;
    receive(page);
  }
});

for (const name of ["wrap", "times"]) {
  const button = document.getElementById(`log-${name}`);
  const set = (on) => {
    press(button, on);
    view.toggleAttribute(`data-${name}`, on);
    if (following) view.scrollTop = view.scrollHeight;
  };
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    set(on);
    try {
      localStorage.setItem(`log-${name}`, on ? "on" : "off");
    } catch {
      // No storage: it holds for this page.
    }
  });
  try {
    set(localStorage.getItem(`log-${name}`) === "on");
  } catch {
    set(false);
  }
}
