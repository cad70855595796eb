// Which line stands in which row, and how high the rows are. Both without the page: pure arithmetic.

// Rows are pieces of consecutive lines: the whole log is one piece (more where lines are missing), a filtered log many.
export class LineMap {
  constructor(pieces) {
    let row = 0;
    this.pieces = pieces.map(({ line, count }) => {
      const piece = { row, line, count };
      row += count;
      return piece;
    });
    this.rows = row;
  }

  // All lines, and behind them what has no number yet, as if it had.
  static whole(store) {
    const pieces = [];
    let line = store.dropped;
    for (const gap of store.gaps) {
      if (gap.first < line) continue;
      pieces.push({ line, count: gap.first - line + 1 }); // with the line that says what is missing
      line = gap.first + gap.count;
    }
    const end = store.total + store.tails.length;
    if (end > line) pieces.push({ line, count: end - line });
    return new LineMap(pieces);
  }

  // The lines `hits`, in order, each with `context` lines before and after it.
  static around(hits, context, store) {
    const pieces = [];
    let next = store.dropped;
    for (const hit of hits) {
      const from = Math.max(next, hit - context), to = Math.min(store.total, hit + context + 1);
      if (to <= from) continue;
      const last = pieces.at(-1);
      if (last && from === next) last.count += to - from;
      else pieces.push({ line: from, count: to - from });
      next = to;
    }
    return new LineMap(pieces);
  }

  lineAt(row) {
    const piece = this.pieces[this.lastPiece((candidate) => candidate.row <= row)];
    return piece ? piece.line + row - piece.row : 0;
  }

  // The row of the line, or of the nearest one that has a row.
  rowOf(line) {
    const index = this.lastPiece((candidate) => candidate.line <= line);
    const piece = this.pieces[index];
    if (!piece) return 0;
    return piece.row + Math.min(line - piece.line, piece.count - 1);
  }

  has(line) {
    return this.rows > 0 && this.lineAt(this.rowOf(line)) === line;
  }

  // Whether lines are left out before this row.
  opens(row) {
    return row > 0 && this.lineAt(row) !== this.lineAt(row - 1) + 1;
  }

  lastPiece(fits) {
    let low = 0, high = this.pieces.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (fits(this.pieces[middle])) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

const BLOCK = 512;

// A row is one text line high, or more where it is wrapped; what is not known yet counts as one. Sums are kept a block.
export class Heights {
  constructor() {
    this.unit = 19; // pixels
    this.reset();
  }

  reset() {
    this.extra = new Map();
    this.blocks = [];
  }

  // True where that is news.
  set(row, lines) {
    const more = lines - 1, known = this.extra.get(row) ?? 0;
    if (more === known) return false;
    if (more) this.extra.set(row, more);
    else this.extra.delete(row);
    const block = Math.floor(row / BLOCK);
    while (this.blocks.length <= block) this.blocks.push(0);
    this.blocks[block] += more - known;
    return true;
  }

  // Pixels from the top of all to the top of this row.
  top(row) {
    let lines = row;
    const block = Math.floor(row / BLOCK);
    for (let index = 0; index < block && index < this.blocks.length; index += 1) lines += this.blocks[index];
    if (this.blocks[block]) for (let index = block * BLOCK; index < row; index += 1) lines += this.extra.get(index) ?? 0;
    return lines * this.unit;
  }

  rowAt(pixels, rows) {
    let lines = Math.floor(pixels / this.unit), row = 0;
    for (let block = 0; block < this.blocks.length && lines >= BLOCK + this.blocks[block]; block += 1) {
      lines -= BLOCK + this.blocks[block];
      row += BLOCK;
    }
    if (!this.blocks[row / BLOCK]) row += lines;
    else for (; lines > (this.extra.get(row) ?? 0); row += 1) lines -= 1 + (this.extra.get(row) ?? 0);
    return Math.max(0, Math.min(row, rows - 1));
  }
}
