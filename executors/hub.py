"""Live pages: what many browsers look at is rendered once, when it changed, and sent to all of them.

One hub a web process (more exactly: an event loop) holds one Redis subscription. A **view** is a piece of a page: a
key, a function that renders it to fragments (element id → HTML), and a test that says which changes concern it. A
**watcher** is one open page. Changes only mark views as dirty; a tick renders each dirty view once, whoever looks, and
gives the watchers the fragments that came out different. With nobody watching, the hub holds no connection, no task.
"""

import asyncio
import json
import logging
import random
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import django.db
import redis.asyncio
from channels.db import database_sync_to_async
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from executors import broker

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.15
"""The shortest time between two renderings: a burst of changes costs one."""
REFRESH_SECONDS = 5.0
"""How often views are rendered without a change, for what no change tells of: use, heartbeats, hints lost."""
RENDERING_SHARE = 0.25
WAITING_SHARE = 0.5
"""The part of the time that may go into rendering, by the CPU it takes and by the clock: with much to render, ticks get
longer, not the server slower. The clock counts for less, as it runs as well while others have the CPU."""
RECONNECT_SECONDS = 0.5, 5.0
"""First and longest wait before the next try to reach Redis."""

Fragments = dict[str, str]
"""Element id → the HTML of that element."""


@dataclass(frozen=True, slots=True)
class Change:
    """Ids of rows that changed in the database; `everything` where it is unknown which."""

    jobs: frozenset[str] = frozenset()
    executors: frozenset[str] = frozenset()
    everything: bool = False


def any_change(change: Change) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class View:
    """A piece of a page. Two views with the same key show the same, so only one of them is rendered.

    `render` is called in a thread and may use the database and Redis; it raises Gone where there is nothing to show
    any more. It is called when a change `concerns` the view, and every REFRESH_SECONDS besides; where it costs much,
    `rest_seconds` is the least time between two renderings.
    """

    key: str
    render: Callable[[], Fragments]
    concerns: Callable[[Change], bool] = any_change
    rest_seconds: float = 0


class Gone(LookupError):
    """What a page is about does not exist, or not any more."""


class Watcher(Protocol):
    """One open page. No call may block."""

    def offer(self, fragments: Fragments) -> None:
        """These fragments are new."""

    def offer_status(self, connected: bool) -> None:
        """Whether changes reach the hub: False while Redis is away."""

    def offer_gone(self) -> None:
        """There is nothing to show any more."""


@dataclass(slots=True)
class _Shown:
    """A view that somebody looks at. `newcomers` have seen nothing of it yet."""

    view: View
    fragments: Fragments = field(default_factory=dict)
    watchers: set[Watcher] = field(default_factory=set)
    newcomers: set[Watcher] = field(default_factory=set)
    dirty: bool = True
    rested_at: float = 0
    """When it may be rendered again, by time.monotonic()."""


@dataclass(slots=True)
class _Channel:
    """A Redis channel that somebody listens to, and how many hints have come on it."""

    listeners: set[asyncio.Event] = field(default_factory=set)
    hints: int = 0

    def hint(self) -> None:
        self.hints += 1
        for listener in self.listeners:
            listener.set()


class Hub:
    """See the module. Every method is called in the event loop that the hub belongs to."""

    def __init__(self) -> None:
        self._shown: dict[str, _Shown] = {}
        self._channels: dict[str, _Channel] = {}
        self._dirty = asyncio.Event()
        self._connected = True
        self._pubsub: PubSub | None = None
        self._client: redis.asyncio.Redis | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None

    # --- for consumers ---------------------------------------------------------------------------------------------

    @contextmanager
    def watching(self, view: View, watcher: Watcher) -> Iterator[None]:
        """While inside, `watcher` is offered the view's fragments: all of them at first, then what changes."""
        shown = self._shown.setdefault(view.key, _Shown(view))
        shown.watchers.add(watcher)
        shown.newcomers.add(watcher)
        shown.dirty = True
        self._dirty.set()
        self._start()
        watcher.offer_status(self._connected)
        try:
            yield
        finally:
            shown.watchers.discard(watcher)
            shown.newcomers.discard(watcher)
            if not shown.watchers:
                self._shown.pop(view.key, None)
            self._stop_if_idle()

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncIterator[asyncio.Event]:
        """While inside, the event is set when a message arrives on the Redis channel, or when one may have been missed.

        Any number of listeners share one subscription.
        """
        signal = asyncio.Event()
        self._channels.setdefault(channel, _Channel()).listeners.add(signal)
        self._start()
        await self._follow_channels()
        try:
            yield signal
        finally:
            listeners = self._channels[channel].listeners
            listeners.discard(signal)
            if not listeners:
                del self._channels[channel]
            self._stop_if_idle()
            await self._follow_channels()

    def hints(self, channel: str) -> int:
        """How many hints have come on a channel that is listened to: what was asked for before the last is old."""
        return self._channels[channel].hints

    @property
    def client(self) -> redis.asyncio.Redis:
        """A Redis client that all watchers share, for as long as there are any."""
        if self._client is None:
            self._client = broker.async_client()
        return self._client

    # --- life ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._connected = True
            self._tasks = [loop.create_task(work) for work in (self._listen(), self._tick(), self._refresh())]

    def _is_wanted(self) -> bool:
        """Whether the running task is one of the hub's still: libraries have been seen to lose a cancellation."""
        return asyncio.current_task() in self._tasks

    def _stop_if_idle(self) -> None:
        if not self._shown and not self._channels:
            for task in self._tasks:
                task.cancel()
            self._tasks = []
            self._pubsub = None
            if self._client is not None:
                self._closing = asyncio.get_running_loop().create_task(self._client.aclose())
                self._client = None

    # --- Redis -----------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Hold the subscription for as long as somebody watches, whatever happens to Redis."""
        wait = RECONNECT_SECONDS[0]
        while self._is_wanted():
            client = broker.async_client()
            client.set_retry(Retry(NoBackoff(), 0))  # this loop reconnects, and must know that it did
            pubsub = client.pubsub()
            try:
                await pubsub.subscribe(broker.keys().changes_channel)
                self._pubsub = pubsub
                await self._follow_channels()
                await self._follow_channels()  # somebody may have begun to listen meanwhile
                async for message in pubsub.listen():
                    wait = RECONNECT_SECONDS[0]
                    self._receive(message)
            except (RedisError, OSError) as error:
                logger.warning("Pages get no changes, Redis is away: %s", error)
            finally:
                self._pubsub = None
                with suppress(RedisError, OSError):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]
                    await client.aclose()
            self._set_connected(False)
            await asyncio.sleep(wait * random.uniform(0.7, 1.3))  # noqa: S311
            wait = min(wait * 2, RECONNECT_SECONDS[1])

    async def _follow_channels(self) -> None:
        """Make the subscription what the listeners want; where Redis is away, `_listen` does so when it is back."""
        pubsub = self._pubsub
        if pubsub is None:
            return
        wanted = {channel.encode() for channel in self._channels} | {broker.keys().changes_channel.encode()}
        # AttributeError: redis-py's, where the connection is closed at the very moment of writing to it.
        with suppress(RedisError, OSError, AttributeError):
            if missing := wanted - (set(pubsub.channels) - pubsub.pending_unsubscribe_channels):
                await pubsub.subscribe(*missing)
            if surplus := set(pubsub.channels) - pubsub.pending_unsubscribe_channels - wanted:
                await pubsub.unsubscribe(*surplus)

    def _receive(self, message: dict[str, Any]) -> None:
        channel = message["channel"].decode()
        if channel == broker.keys().changes_channel:
            if message["type"] == "subscribe":
                # The first moment from which nothing can be missed; whatever was missed before it shows now.
                self._set_connected(True)
                self._mark(Change(everything=True))
            elif message["type"] == "message":
                self._mark(_parse(message["data"]))
        elif channel in self._channels:
            # A message, or the channel's own subscription: from here on nothing can be missed, before it something was.
            self._channels[channel].hint()

    def _set_connected(self, connected: bool) -> None:
        if connected != self._connected:
            self._connected = connected
            for shown in self._shown.values():
                for watcher in shown.watchers:
                    watcher.offer_status(connected)

    # --- rendering -------------------------------------------------------------------------------------------------

    def _mark(self, change: Change) -> None:
        for shown in self._shown.values():
            if change.everything or shown.view.concerns(change):
                shown.dirty = True
                self._dirty.set()

    async def _refresh(self) -> None:
        while self._is_wanted():
            await asyncio.sleep(REFRESH_SECONDS)
            for shown in self._shown.values():
                shown.dirty = True
                self._dirty.set()

    async def _tick(self) -> None:
        """The first change after a quiet time shows at once; those of a burst, together, a tick later."""
        while self._is_wanted():
            await self._dirty.wait()
            self._dirty.clear()
            begun, cpu, waited = time.monotonic(), 0.0, 0.0
            for shown in [shown for shown in self._shown.values() if shown.dirty]:
                if begun >= shown.rested_at or not shown.fragments:
                    spent = await self._render(shown)
                    cpu, waited = cpu + spent[0], waited + spent[1]
                else:
                    _welcome(shown)
                    self._dirty.set()
            await asyncio.sleep(max(TICK_SECONDS, cpu * (1 / RENDERING_SHARE - 1), waited * (1 / WAITING_SHARE - 1)))

    async def _render(self, shown: _Shown) -> tuple[float, float]:
        """Returns the seconds that it took, of CPU and by the clock."""
        shown.dirty = False
        shown.rested_at = time.monotonic() + shown.view.rest_seconds
        newcomers, shown.newcomers = shown.newcomers, set()
        spent = 0.0, 0.0

        def render() -> Fragments:
            nonlocal spent
            cpu, clock = time.thread_time(), time.monotonic()
            try:
                return shown.view.render()
            finally:
                spent = time.thread_time() - cpu, time.monotonic() - clock

        try:
            fragments = await database_sync_to_async(render)()
        except Gone:
            for watcher in shown.watchers:
                watcher.offer_gone()
            return spent
        except Exception as error:
            # Whatever it is, a database that is away or a fault in one view: the others go on, and this one is tried
            # again at the next change or refresh.
            fault = not isinstance(error, django.db.Error)
            logger.error("The live view %s could not be rendered: %s", shown.view.key, error, exc_info=fault)
            shown.newcomers |= newcomers
            return spent
        changed = {name: html for name, html in fragments.items() if shown.fragments.get(name) != html}
        shown.fragments = fragments
        for watcher in shown.watchers:
            if news := fragments if watcher in newcomers else changed:
                watcher.offer(news)
        return spent


def _welcome(shown: _Shown) -> None:
    """Show newcomers what the others see, while the view rests."""
    for watcher in shown.newcomers:
        watcher.offer(shown.fragments)
    shown.newcomers.clear()


def _parse(data: bytes) -> Change:
    try:
        body = json.loads(data)
        return Change(frozenset(body.get("jobs", ())), frozenset(body.get("executors", ())))
    except (ValueError, AttributeError, TypeError):
        logger.warning("Not a change hint: %r", data[:200])
        return Change(everything=True)


_hubs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = weakref.WeakKeyDictionary()


def hub() -> Hub:
    """The hub of the running event loop."""
    return _hubs.setdefault(asyncio.get_running_loop(), Hub())
