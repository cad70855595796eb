"""How quantities, times and bars look on every page: `{% load display %}`."""

import datetime
import json
import re
from collections.abc import Mapping
from typing import Any

from django import template
from django.conf import settings
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

register = template.Library()

GIB = 1024**3
_UTC = re.compile(r"(?:(?P<day>2\d{3}-[01]\d-[0-3]\d) )?\b(?P<time>[0-2]\d:[0-5]\d(?::[0-5]\d)?) UTC\b")


@register.filter
def cores(millicores: int | None) -> str:
    """1500 → '1.5'."""
    return "–" if millicores is None else f"{millicores / 1000:.3f}".rstrip("0").rstrip(".")


@register.filter
def memory(count: int | None) -> str:
    """Bytes as people say them, 1 GB = 1024³ bytes: '512 MB', '1.5 GB', '2 TB'."""
    if count is None:
        return "–"
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    digits = 0 if unit == "B" or value >= 100 else 1 if value >= 10 else 2
    text = f"{value:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"


@register.filter
def gigabytes(count: int) -> str:
    """Bytes as a plain number of GB, as the submit form takes it: 1610612736 → '1.5'."""
    return f"{count / GIB:.6f}".rstrip("0").rstrip(".")


@register.filter
def duration(seconds: float | datetime.timedelta | None) -> str:
    """The two largest units: '0.42 s', '12 s', '3 min 20 s', '2 h 5 min', '3 d 4 h'."""
    if seconds is None:
        return "–"
    if isinstance(seconds, datetime.timedelta):
        seconds = seconds.total_seconds()
    seconds = max(0.0, float(seconds))
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


@register.filter
def between(end: datetime.datetime | None, start: datetime.datetime | None) -> str:
    """`{{ job.finished_at|between:job.started_at }}`: how long that took; '' where either is unknown."""
    return "" if end is None or start is None else duration(end - start)


@register.filter
def shell(command: list[str]) -> str:
    """A command as one would type it, quoted only where a shell needs it."""
    return " ".join(_quote(argument) for argument in command)


def _quote(argument: str) -> str:
    plain = argument and all(letter.isalnum() or letter in "@%+=:,./-_" for letter in argument)
    return argument if plain else "'" + argument.replace("'", "'\"'\"'") + "'"


@register.filter
def short_id(job_id: object) -> str:
    """The end of a job's id: the start is its time, and the same for all jobs of one minute."""
    return str(job_id)[-8:]


@register.filter
def as_json(value: Any) -> str:
    """For an element's text, from where a script reads it."""
    return json.dumps(value, separators=(",", ":"))


@register.filter
def get(mapping: Mapping[str, Any], key: str) -> Any:
    return mapping.get(key)


@register.simple_tag
def moment(when: datetime.datetime | None, kind: str = "ago") -> SafeString | str:
    """A `<time>`; shown by the browser as `kind` says: `ago` (3 min ago), `since` (3 min, growing) or `clock` (local).

    What the server writes never depends on now, so that a page that did not change renders to the same HTML.
    """
    if when is None:
        return "–"
    utc = when.astimezone(datetime.UTC)
    return format_html(
        '<time datetime="{}" data-{}>{}</time>',
        utc.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        kind,
        utc.strftime("%d %b %H:%M:%S"),
    )


@register.filter
def with_times(text: str) -> SafeString:
    """A sentence in which times in UTC, with a date or of today, become `<time>`: shown in the reader's zone."""
    pieces: list[str] = []
    end = 0
    for found in _UTC.finditer(text):
        day = found["day"] or f"{timezone.now():%Y-%m-%d}"
        try:
            when = datetime.datetime.fromisoformat(f"{day}T{found['time']}+00:00")
        except ValueError:
            continue  # somebody else's words: no such time
        pieces += text[end : found.start()], moment(when, "clock")
        end = found.end()
    return format_html_join("", "{}", ((piece,) for piece in [*pieces, text[end:]]))


@register.simple_tag
def bar(capacity: float, allocated: float, used: float | str | None = None, label: str = "") -> SafeString:
    """A bar: filled as far as allocated, a second thin one as far as really used (None or '' where nobody knows)."""
    # Not a template: a list has two hundred of them.
    said = format_html('role="img" aria-label="{}"', label) if label else SafeString('aria-hidden="true"')
    filled = f'<rect class="bar-allocated" width="{_percent(allocated, capacity)}%" height="100%"/>'
    if used is not None and not isinstance(used, str):
        filled += f'<rect class="bar-used" y="65%" width="{_percent(used, capacity)}%" height="35%"/>'
    return format_html('<svg class="bar" {}>{}</svg>', said, SafeString(filled))


@register.filter
def percent_of(part: float | None, whole: float) -> str:
    return "–" if part is None or not whole else f"{100 * part / whole:.0f} %"


def _percent(part: float, whole: float) -> float:
    return round(min(100.0, 100.0 * part / whole), 1) if whole > 0 else 0.0


@register.simple_tag
def server_address() -> str:
    """The address to show in command lines that people copy."""
    return f"http://{settings.SCHEDULER_API_HOST}:{settings.SCHEDULER_API_PORT}"


@register.filter
def progress_percent(text: str) -> int | None:
    """The number in 'pulling alpine:3.20: 40 %', for a progress bar; None where there is none."""
    found = re.search(r"(\d{1,3}) ?%", text)
    return min(100, int(found[1])) if found else None
