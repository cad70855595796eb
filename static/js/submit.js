// The submit form: presets fill in the resources, Ctrl+Enter submits from any field.

const form = document.getElementById("job-form");

form.addEventListener("click", (event) => {
  const preset = event.target.closest("[data-preset]");
  if (!preset) return;
  for (const name of ["cpu_cores", "memory_gb", "gpu_type", "gpu_count"]) form.elements[name].value = preset.getAttribute(`data-${name}`);
  form.elements.cpu_cores.dispatchEvent(new Event("input", { bubbles: true }));
});

form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
