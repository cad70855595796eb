// Not a module and not deferred: what must be so before the first paint, and before anything else is loaded.
(() => {
  try {
    const chosen = localStorage.getItem("theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // No storage: the system's own preference counts.
  }
})();

// A script or style that did not arrive leaves a dead page. Chromium drops what it is loading when a network of its machine
// comes or goes, as with every container: such a page is loaded once more, before anybody can have typed into it.
addEventListener("error", ({ target }) => {
  if (!["SCRIPT", "LINK"].includes(target?.nodeName) || document.readyState === "complete") return;
  try {
    if (Date.now() - Number(sessionStorage.getItem("loaded-again")) < 10000) return;
    sessionStorage.setItem("loaded-again", String(Date.now()));
  } catch {
    return; // No storage: nothing would end it.
  }
  location.reload();
}, true);
