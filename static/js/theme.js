// Not a module and not deferred: the chosen theme must be set before the first paint.
(() => {
  try {
    const chosen = localStorage.getItem("theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // No storage: the system's own preference counts.
  }
})();
