"""What a terminal shows of one line of a log: without colours, without what was overwritten. Pure.

`static/js/log_terminal.js` does the same in the browser. Search looks at this text: what is found is what is seen.
"""

import re

_CONTROL = re.compile(
    r"\r|\x08|\x1b(?:\[([0-9;:<=>?]*)[ -/]*([@-~])|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[()*+][0-9A-Za-z]|[ -/]*[0-~])"
)
_MOVES = frozenset("CDGHJK`")
WIDEST = 10_000
"""Columns; what would move the cursor farther moves it to here."""


def text_of(line: str) -> str:
    """The text of a line as it is stored: what stands behind time and stream."""
    return line[line.find(" ", line.find(" ") + 1) + 1 :]


def visible(text: str) -> str:
    """The text that stands on the screen when all of it was printed."""
    if "\x1b" not in text and "\r" not in text and "\x08" not in text:
        return text
    overwrites = "\x08" in text or "\r" in text.rstrip("\r")
    if overwrites or any(found[2] in _MOVES for found in _CONTROL.finditer(text) if found[2]):
        return _played(text)
    return _CONTROL.sub("", text)


def _played(text: str) -> str:
    cells: list[str] = []
    column = position = 0
    for found in _CONTROL.finditer(text):
        column = _write(cells, column, text[position : found.start()])
        position = found.end()
        if found[0] == "\r":
            column = 0
        elif found[0] == "\x08":
            column = max(0, column - 1)
        elif found[2] in _MOVES:
            column = _move(cells, column, found[2], found[1])
    _write(cells, column, text[position:])
    return "".join(cells)


def _write(cells: list[str], column: int, text: str) -> int:
    if not text:
        return column
    if column > len(cells):
        cells += " " * (column - len(cells))
    cells[column : column + len(text)] = text
    return column + len(text)


def _move(cells: list[str], column: int, kind: str, parameters: str) -> int:
    """Moves the cursor or erases; the new column."""
    first = parameters.split(";")[0]
    number = min(int(first), WIDEST) if first.isdecimal() else None
    if kind in "JK":
        if not number:
            del cells[column:]
        elif number == 1:
            cells[: column + 1] = " " * min(column + 1, len(cells))
        else:
            cells.clear()
        return column
    if kind == "H":
        return 0
    if kind in "G`":
        return (number or 1) - 1
    by = number or 1
    return min(WIDEST, column + by) if kind == "C" else max(0, column - by)
