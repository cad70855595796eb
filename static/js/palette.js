// Ctrl+K or Cmd+K: go to any page, recent job or executor by typing a part of its name.

const dialog = document.getElementById("palette");
const input = document.getElementById("palette-input");
const options = document.getElementById("palette-options");
const PAUSE = 120;

let chosen = 0;
let asking = null; // the timer of the next question
let asked = 0; // questions so far: an answer to an older one is not shown

export function startPalette() {
  if (!dialog) return;
  document.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "k" || !(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey) return;
    event.preventDefault();
    if (dialog.open) dialog.close();
    else open();
  });
  document.getElementById("palette-open")?.addEventListener("click", open);
  input.addEventListener("input", () => {
    clearTimeout(asking);
    asking = setTimeout(ask, PAUSE);
    show(pages());
  });
  input.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in steps) mark(chosen + steps[event.key]);
    else if (event.key === "Enter") options.children[chosen]?.click();
    else return;
    event.preventDefault();
  });
}

function open() {
  input.value = "";
  dialog.showModal();
  input.focus();
  show(pages());
  ask();
}

// The pages that the main navigation leads to.
function pages() {
  const words = input.value.toLowerCase();
  return [...document.querySelectorAll("[data-place]")]
    .map((link) => ({ kind: "Page", name: link.dataset.name ?? link.textContent.trim(), address: link.getAttribute("href") }))
    .filter((page) => page.name.toLowerCase().includes(words));
}

async function ask() {
  const mine = ++asked;
  try {
    const answer = await fetch(`${dialog.dataset.source}?text=${encodeURIComponent(input.value)}`);
    if (answer.ok && mine === asked) show([...pages(), ...(await answer.json()).found]);
  } catch {
    // The server is away: the pages are there all the same, and a click says more.
  }
}

function show(found) {
  options.replaceChildren(...found.map(option));
  document.getElementById("palette-none").hidden = found.length > 0;
  mark(0);
}

function option({ kind, name, detail, address }, index) {
  const item = document.createElement("li");
  item.id = `palette-${index}`;
  item.setAttribute("role", "option");
  const text = document.createElement("span");
  text.textContent = name;
  const more = document.createElement("small");
  more.textContent = detail ? `${kind} · ${detail}` : kind;
  item.append(text, more);
  item.addEventListener("click", () => location.assign(address));
  item.addEventListener("pointermove", () => chosen === index || mark(index));
  return item;
}

function mark(index) {
  const all = [...options.children];
  chosen = all.length ? (index + all.length) % all.length : 0;
  for (const [place, item] of all.entries()) item.setAttribute("aria-selected", String(place === chosen));
  if (all.length) input.setAttribute("aria-activedescendant", all[chosen].id);
  else input.removeAttribute("aria-activedescendant");
  all[chosen]?.scrollIntoView({ block: "nearest" });
}
