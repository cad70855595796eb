"""The server's connections to Redis, and the hints by which pages learn that something changed."""

import functools
import json
import logging
import time
from collections.abc import Iterable

import redis
import redis.asyncio
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from agent.protocol import FIELD, Event, Keys, encode

logger = logging.getLogger(__name__)

RedisUnavailable = (redis.ConnectionError, redis.TimeoutError)
"""What a call raises when Redis cannot be reached: `except RedisUnavailable`."""


def keys() -> Keys:
    return Keys(settings.REDIS_KEY_PREFIX)


def client() -> redis.Redis:
    """The process's shared, thread-safe client; answers come as bytes. A call waits 5 s at most."""
    return _client(settings.REDIS_URL)


@functools.cache
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=2,
        socket_timeout=5,
        health_check_interval=30,
        # Once more over a new connection where the old one was cut; one that hangs is not waited for twice.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )


AWAY_CHECKED_SECONDS = 1.0
_checked: tuple[str, float, bool] = ("", 0.0, False)
"""The last look of `is_away`: at which Redis, when by the monotonic clock, and whether it was away."""


def is_away() -> bool:
    """Whether Redis does not answer a quick question; asked once a second at most, whoever wants to know."""
    global _checked
    url, now = settings.REDIS_URL, time.monotonic()
    if _checked[0] != url or now - _checked[1] >= AWAY_CHECKED_SECONDS:
        away = False
        try:
            _quick_client(url).ping()
        except RedisUnavailable:
            away = True
        _checked = url, time.monotonic(), away
    return _checked[2]


@functools.cache
def _quick_client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_connect_timeout=0.5, socket_timeout=0.5, retry=Retry(NoBackoff(), 1, (redis.ConnectionError,))
    )


def async_client() -> redis.asyncio.Redis:
    """A new client for the running event loop; its maker closes it with `aclose()`. Answers come as bytes."""
    return redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=2, health_check_interval=30)


def send_event(event: Event) -> bool:
    """Put an event from a web process into `events`. False where Redis is away: the scheduler polls besides."""
    try:
        client().xadd(keys().events, {FIELD: encode(event)})
    except RedisUnavailable as error:
        logger.warning("%s was not sent, Redis is away: %s", event.kind, error)
        return False
    return True


def publish_changes(jobs: Iterable[object] = (), executors: Iterable[object] = ()) -> None:
    """Tell every open page that these rows changed, after the commit that changed them. Lost where Redis is away."""
    hint = {"jobs": [str(job) for job in jobs], "executors": [str(executor) for executor in executors]}
    try:
        client().publish(keys().changes_channel, json.dumps(hint))
    except RedisUnavailable as error:
        logger.warning("Pages were not told of a change, Redis is away: %s", error)
