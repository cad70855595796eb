"""The largest bursts of jobs that a node had lately, from which it knows how many sandboxes to keep ready. Pure."""

import json
from dataclasses import dataclass

REMEMBERED_SECONDS = 8 * 86_400
"""A day more than a week: what comes every night, every Monday or every week is remembered until it comes again."""


@dataclass(frozen=True, slots=True)
class Burst:
    """So many jobs came at once; `at`: seconds since 1970."""

    at: float
    jobs: int


Bursts = tuple[Burst, ...]
"""Oldest first, each smaller than the one before: one that was followed by a larger says nothing more."""


def with_burst(bursts: Bursts, burst: Burst) -> Bursts:
    """What is remembered when another has come."""
    return (*(old for old in bursts if old.jobs > burst.jobs and _remembered(old, burst.at)), burst)


def largest(bursts: Bursts, now: float) -> int:
    """The jobs of the largest that is remembered; 0 without any."""
    return max((burst.jobs for burst in bursts if _remembered(burst, now)), default=0)


def _remembered(burst: Burst, now: float) -> bool:
    return now - burst.at <= REMEMBERED_SECONDS


def dumped(bursts: Bursts) -> str:
    return json.dumps([[round(burst.at), burst.jobs] for burst in bursts])


def loaded(text: str, now: float) -> Bursts:
    """Raises ValueError for anything but what `dumped` writes. One of the future (a wrong clock) is taken as of now."""
    bursts: Bursts = ()
    try:
        for at, jobs in json.loads(text):
            bursts = with_burst(bursts, Burst(min(float(at), now), int(jobs)))
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    return bursts
