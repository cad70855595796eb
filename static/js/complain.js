// A sentence at the top of the page for a while: what did not work, and what to do.

export function complain(sentence) {
  const notice = document.createElement("p");
  notice.className = "notice";
  notice.dataset.level = "error";
  notice.setAttribute("role", "alert");
  notice.textContent = sentence;
  document.getElementById("main").prepend(notice);
  setTimeout(() => notice.remove(), 8000);
}
