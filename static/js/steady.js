// [data-steady]: an element that does not shrink while one looks, so that what stands below it is not moved away from under
// the pointer. Another width of the window is another beginning.

export function startSteady() {
  for (const element of document.querySelectorAll("[data-steady]")) keep(element);
}

function keep(element) {
  let width = element.clientWidth, least = 0;
  new ResizeObserver(() => {
    if (element.clientWidth !== width) {
      width = element.clientWidth;
      least = 0;
      element.style.minHeight = "";
    }
    if (element.clientHeight <= least) return;
    least = element.clientHeight;
    element.style.minHeight = `${least}px`;
  }).observe(element);
}
