// A dialog whose answer was refused is open again when the page comes back with the reason.
document.querySelector("dialog[data-open-now]")?.showModal();
