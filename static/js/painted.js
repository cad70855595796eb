// What only scripts can show, as charts and what is live, comes after the page itself: else the browser's first paint waits
// for it. Where a browser does not say when it painted, a moment after the first frame; in a tab that nobody looks at, when
// somebody does.
const AT_MOST = 1000;

export const painted = new Promise((tell) => {
  new PerformanceObserver(() => performance.getEntriesByName("first-contentful-paint").length && tell()).observe({ type: "paint", buffered: true });
  requestAnimationFrame(() => setTimeout(tell, AT_MOST));
});
