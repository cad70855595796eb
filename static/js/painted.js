// What only scripts can show, as charts and what is live, comes after the page itself: else the browser's first paint waits
// for it. In a tab that nobody looks at it comes when somebody does.
export const painted = new Promise((tell) => requestAnimationFrame(() => setTimeout(tell)));
