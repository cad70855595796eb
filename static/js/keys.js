// The keyboard: single keys to go places and to move through rows. `?` shows them; they can be switched off there.

const PLACES = { d: "dashboard", j: "jobs", e: "executors" };
const SEQUENCE_WITHIN = 1200;

const help = document.getElementById("keys-dialog");
const toggle = document.getElementById("keys-toggle");
let begun = -Infinity; // when `g` was pressed, the first half of `g j`

export function startKeys() {
  if (!help) return;
  toggle.checked = enabled();
  toggle.addEventListener("change", () => remember(toggle.checked));
  document.addEventListener("keydown", pressed);
}

function enabled() {
  try {
    return localStorage.getItem("single-keys") !== "off";
  } catch {
    return true;
  }
}

function remember(on) {
  try {
    localStorage.setItem("single-keys", on ? "on" : "off");
  } catch {
    // No storage: it holds for this page.
  }
}

function pressed(event) {
  if (event.key === "Escape" && event.target.matches("input[type=search]") && !event.target.value) event.target.blur(); // back to single keys
  if (event.ctrlKey || event.metaKey || event.altKey || !toggle.checked) return;
  if (event.defaultPrevented) {
    begun = event.key === "g" ? performance.now() : -Infinity; // a log takes it, too, and goes to its first line
    return;
  }
  if (document.querySelector("dialog[open]") || isTyping(event.target)) return;
  if (act(event)) event.preventDefault();
}

function isTyping(element) {
  return element.isContentEditable || (element.matches("input, textarea, select") && !element.matches("[type=checkbox]"));
}

function act(event) {
  const { key } = event;
  const second = performance.now() - begun < SEQUENCE_WITHIN;
  begun = -Infinity;
  if (second && PLACES[key]) return go(PLACES[key]);
  if (key === "g") begun = performance.now();
  else if (key === "?") help.showModal();
  else if (key === "n") return go("new");
  else if (key === "/") return focusSearch();
  else if (key === "j" || key === "k") return move(key === "j" ? 1 : -1);
  else if (key === "ArrowDown" || key === "ArrowUp") return current() !== null && move(key === "ArrowDown" ? 1 : -1);
  else if (key === "x" || key === "X") return select(event.shiftKey);
  else return false;
  return true;
}

function go(place) {
  document.querySelector(`[data-place="${place}"]`)?.click();
  return true;
}

function focusSearch() {
  const search = [...document.querySelectorAll("[aria-keyshortcuts='/']")].find((element) => element.offsetParent);
  if (!search) return go("jobs");
  search.focus();
  search.select?.();
  return true;
}

// --- Rows: the focus moves along the links that open them ---

const links = () => [...document.querySelectorAll("main .rows .row-link")];

function current() {
  const row = document.activeElement?.closest(".rows tr");
  return row?.querySelector(".row-link") ?? null;
}

function move(step) {
  const all = links();
  if (!all.length) return false;
  const at = all.indexOf(current());
  const next = all[Math.min(all.length - 1, Math.max(0, at < 0 ? 0 : at + step))];
  next.focus();
  next.closest("tr").scrollIntoView({ block: "nearest" });
  return true;
}

function select(range) {
  const box = current()?.closest("tr").querySelector(".cell-select input");
  if (!box) return false;
  box.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true, shiftKey: range }));
  return true;
}
