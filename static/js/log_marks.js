// The strip over the scroll bar: where in the log the hits, the selected lines and the hit gone to are.

export class ScrollMarks {
  constructor(canvas) {
    this.canvas = canvas;
    this.pending = false;
    this.state = null;
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // `place(line)`: how far down the log the line is, from 0 to 1.
  show(hits, current, selection, place) {
    this.state = { hits, current, selection, place };
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.draw();
    });
  }

  draw() {
    if (!this.state) return;
    const { canvas } = this, { hits, current, selection, place } = this.state;
    const scale = devicePixelRatio, width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d"), style = getComputedStyle(canvas), thick = Math.round(2 * scale);
    context.clearRect(0, 0, width, height);
    const y = (line) => Math.min(height - thick, Math.round(place(line) * height));
    if (selection) {
      context.fillStyle = style.getPropertyValue("--mark-selected");
      context.fillRect(0, y(selection.from), width, Math.max(thick, y(selection.to) - y(selection.from)));
    }
    context.fillStyle = style.getPropertyValue("--mark-hit");
    let last = -1, count = 0;
    for (const hit of hits) {
      const at = y(hit);
      if (at === last) continue;
      context.fillRect(Math.round(width / 4), at, width, thick);
      last = at;
      count += 1;
    }
    canvas.dataset.marks = count;
    if (current !== null) {
      context.fillStyle = style.getPropertyValue("--mark-current");
      context.fillRect(0, y(current) - thick, width, 2 * thick);
    }
  }
}
