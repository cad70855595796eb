// Every page: the socket, the times, the theme button, dialogs and forms.
import { complain } from "./complain.js";
import { startKeys } from "./keys.js";
import { startLive } from "./live.js";
import { startNotify } from "./notify.js";
import { startPalette } from "./palette.js";
import { startSteady } from "./steady.js";

const root = document.documentElement;

document.getElementById("theme-toggle")?.addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // No storage: it holds for this page.
  }
});

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-opens]");
  if (opener) document.getElementById(opener.dataset.opens).showModal();
  const dismisser = event.target.closest("[data-dismisses]");
  if (dismisser) document.getElementById(dismisser.dataset.dismisses).close();
  const copier = event.target.closest("[data-copies]");
  if (copier) copy(copier);
  if (event.target.nodeName === "DIALOG") event.target.close(); // its backdrop
});

// A time stands above its row's link, for its own hover; a click with Ctrl or the middle button opens a tab as the link does.
for (const kind of ["click", "auxclick"]) {
  document.addEventListener(kind, (event) => {
    if (event.target.nodeName !== "TIME" || event.button === 2) return;
    event.target.closest("tr, .attention-list li")?.querySelector(".row-link, p > a")?.dispatchEvent(new MouseEvent("click", event));
  });
}

async function copy(button) {
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(new URL(button.dataset.copies, location.href).href);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Copy the address bar";
  }
  setTimeout(() => (button.textContent = said), 1500);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.closes) document.getElementById(form.dataset.closes).close();
  if ("once" in form.dataset) {
    if (form.dataset.sent) event.preventDefault(); // a double click must not submit a job twice
    form.dataset.sent = "yes";
  }
});
addEventListener("pageshow", () => document.querySelectorAll("form[data-once]").forEach((form) => delete form.dataset.sent));

document.addEventListener("htmx:sendError", () => complain("The server did not answer. Nothing was changed; try again."));
document.addEventListener("htmx:responseError", (event) => complain(`The server refused: ${event.detail.xhr.status}. Reload the page and try again.`));

document.querySelector("[aria-invalid='true']")?.focus();
startLive();
startKeys();
startPalette();
startNotify();
startSteady();
