"""What Docker applied to a container, as agents report it, in rows for the job's page."""

import json
from collections.abc import Mapping
from typing import Any

from executors.templatetags.display import cores, memory
from jobs.masking import masked

BYTES = frozenset({"Memory", "MemorySwap", "ShmSize"})

Rows = list[tuple[str, list[str]]]


def rows_of(applied: Mapping[str, Any], env: Mapping[str, str]) -> Rows:
    """Each setting by Docker's own name with its values. `env` is the job's: its values are shown as far as they may
    be; of other variables the agent tells the names alone."""
    config, host = _part(applied, "Config"), _part(applied, "HostConfig")
    rest = {name: value for name, value in applied.items() if name not in ("Config", "HostConfig")}
    rows = [(name or "Note", _values(name, value)) for part in (rest, config, host) for name, value in part.items()]
    shown = masked(env)
    variables = [
        f"{name}={shown[name]}" if name in shown else f"{name} (the image's)" for name in config.get("Env", ())
    ]
    instead = {"Env": variables, "CpuQuota": [_quota(host)]}
    return [(name, instead.get(name, values)) for name, values in rows]


def _quota(host: Mapping[str, Any]) -> str:
    quota, period = host.get("CpuQuota"), host.get("CpuPeriod")
    if not isinstance(quota, int) or not isinstance(period, int) or period <= 0:
        return _json(quota)
    return f"{quota} of every {period} µs ({cores(1000 * quota // period)} cores)"


def _part(applied: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = applied.get(name)
    return part if isinstance(part, dict) else {}


def _values(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in _values("", item)]
    if isinstance(value, dict):
        some = {key: item for key, item in value.items() if item not in (None, "", [], {})}
        return [f"{key}={item if isinstance(item, str) else _json(item)}" for key, item in some.items()]
    if isinstance(value, str):
        return [value]
    if name in BYTES and isinstance(value, int) and value > 0:
        return [f"{value} ({memory(value)})"]
    return [_json(value)]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
