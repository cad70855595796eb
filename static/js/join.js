// The join page: the command to the clipboard, and what has joined since the page was opened.

const list = document.getElementById("join-newest");
const title = document.getElementById("join-title");
const copy = document.getElementById("join-copy");
const known = new Set([...list.children].map((item) => item.dataset.executor));

new MutationObserver(look).observe(list, { childList: true, subtree: true, attributeFilter: ["data-new"] }); // a new rendering takes the mark away

function look() {
  const fresh = [...list.children].filter((item) => !known.has(item.dataset.executor));
  for (const item of fresh) if (!("new" in item.dataset)) item.dataset.new = "";
  if (!fresh.length) return;
  const words = `${fresh.map((item) => item.querySelector("strong").textContent).join(", ")} joined`;
  if (title.textContent !== words) title.textContent = words;
  title.dataset.done = "";
}

copy.addEventListener("click", async () => {
  const command = document.getElementById("join-command");
  try {
    await navigator.clipboard.writeText(command.textContent);
    copy.textContent = "Copied";
  } catch {
    // Not allowed, as without HTTPS: select it, so that Ctrl-C does it.
    getSelection().selectAllChildren(command);
    copy.textContent = "Press Ctrl-C";
  }
  setTimeout(() => (copy.textContent = "Copy"), 3000);
});
