"""The hub with a real Redis: what is rendered how often, who gets it, and what happens when Redis goes away."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from pytest_django import Settings

from executors import broker
from executors import hub as hub_module
from executors.hub import Change, Fragments, Gone, Hub, View, hub
from tests.parts import free_port, start_redis

pytestmark = pytest.mark.django_db


class Page:
    """A watcher that keeps what it was offered."""

    def __init__(self) -> None:
        self.offers: list[Fragments] = []
        self.statuses: list[bool] = []
        self.gone = False

    def offer(self, fragments: Fragments) -> None:
        self.offers.append(fragments)

    def offer_gone(self) -> None:
        self.gone = True

    def offer_status(self, connected: bool) -> None:
        self.statuses.append(connected)


class Source:
    """A view's render function that counts its calls and returns what it was given last."""

    def __init__(self, **fragments: str) -> None:
        self.fragments, self.calls = fragments, 0

    def __call__(self) -> Fragments:
        self.calls += 1
        return dict(self.fragments)


async def until(probe: Callable[[], object], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not probe():  # noqa: ASYNC110  what is waited for happens in Redis
            await asyncio.sleep(0.01)


@pytest.fixture
async def live(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    """The hub of this test's loop; views are not refreshed without a change while a test runs."""
    monkeypatch.setattr(hub_module, "REFRESH_SECONDS", 3600)
    yield hub()
    await asyncio.sleep(0)


def subscribed(client: redis.Redis) -> bool:
    return client.pubsub_numsub(broker.keys().changes_channel)[0][1] > 0


async def settled(client: redis.Redis, page: Page, source: Source) -> None:
    """Subscribed, and the renderings that a new subscription causes are over."""
    await until(lambda: subscribed(client) and page.offers)
    await asyncio.sleep(2 * hub_module.TICK_SECONDS)
    page.offers.clear()
    source.calls = 0


async def test_a_view_is_rendered_once_however_many_look(live: Hub, redis_client: redis.Redis) -> None:
    source, pages = Source(a="1"), [Page() for _ in range(20)]
    view = View("v", source)
    with ExitStack() as watching:
        for page in pages:
            watching.enter_context(live.watching(view, page))
        await settled(redis_client, pages[0], source)
        source.fragments = {"a": "2"}
        broker.publish_changes(jobs=["x"])
        await until(lambda: all(page.offers and page.offers[-1] == {"a": "2"} for page in pages))
        assert source.calls == 1


async def test_only_what_came_out_different_is_offered(live: Hub, redis_client: redis.Redis) -> None:
    source, page = Source(a="1", b="1"), Page()
    with live.watching(View("v", source), page):
        await settled(redis_client, page, source)
        source.fragments = {"a": "1", "b": "2"}
        broker.publish_changes(jobs=["x"])
        await until(lambda: page.offers)
        assert page.offers == [{"b": "2"}]
        broker.publish_changes(jobs=["x"])
        await until(lambda: source.calls == 2)
        assert page.offers == [{"b": "2"}]


async def test_who_comes_later_gets_everything_and_the_others_nothing(live: Hub, redis_client: redis.Redis) -> None:
    source, first, second = Source(a="1", b="1"), Page(), Page()
    view = View("v", source)
    with live.watching(view, first):
        await settled(redis_client, first, source)
        with live.watching(view, second):
            await until(lambda: second.offers)
    assert second.offers == [{"a": "1", "b": "1"}]
    assert first.offers == []


async def test_a_change_that_does_not_concern_a_view_does_not_render_it(live: Hub, redis_client: redis.Redis) -> None:
    mine, other, page, other_page = Source(a="1"), Source(a="1"), Page(), Page()
    with (
        live.watching(View("mine", mine, lambda change: "me" in change.jobs), page),
        live.watching(View("other", other, lambda change: "you" in change.executors), other_page),
    ):
        await settled(redis_client, page, mine)
        mine.calls = other.calls = 0
        broker.publish_changes(executors=["you"])
        await until(lambda: other.calls)
        assert mine.calls == 0


async def test_a_burst_of_changes_costs_few_renderings(live: Hub, redis_client: redis.Redis) -> None:
    source, page = Source(a="1"), Page()
    with live.watching(View("v", source), page):
        await settled(redis_client, page, source)
        for number in range(500):
            source.fragments = {"a": str(number)}
            broker.publish_changes(jobs=[number])
        await until(lambda: page.offers and page.offers[-1] == {"a": "499"})
        assert source.calls < 20


async def test_a_view_that_cannot_be_rendered_does_not_keep_the_others_from_it(
    live: Hub, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    broken = True

    def render() -> Fragments:
        if broken:
            raise ValueError("no such table")
        return {"b": "1"}

    good, good_page, bad_page = Source(a="1"), Page(), Page()
    with live.watching(View("bad", render), bad_page), live.watching(View("good", good), good_page):
        await until(lambda: good_page.offers and "no such table" in caplog.text)
        broken = False
        await until(lambda: subscribed(redis_client))
        broker.publish_changes(jobs=["x"])
        await until(lambda: bad_page.offers == [{"b": "1"}])


async def test_a_view_of_what_is_gone_says_so_to_who_looks(live: Hub, redis_client: redis.Redis) -> None:
    def render() -> Fragments:
        raise Gone("deleted")

    page = Page()
    with live.watching(View("v", render), page):
        await until(lambda: page.gone)
    assert page.offers == []


async def test_a_view_that_is_slow_to_render_leaves_as_much_time_to_others(
    live: Hub, redis_client: redis.Redis
) -> None:
    calls: list[float] = []

    def render() -> Fragments:
        calls.append(time.monotonic())
        time.sleep(0.2)
        return {"a": str(len(calls))}

    with live.watching(View("v", render), Page()):
        await until(lambda: subscribed(redis_client) and calls)
        while len(calls) < 3:
            broker.publish_changes(jobs=["x"])
            await asyncio.sleep(0.01)
    assert all(later - earlier > 0.39 for earlier, later in itertools.pairwise(calls))


async def test_a_hint_that_nobody_understands_renders_everything(live: Hub, redis_client: redis.Redis) -> None:
    source, page = Source(a="1"), Page()
    with live.watching(View("v", source, lambda change: False), page):
        await settled(redis_client, page, source)
        for hint in (b"\xff", b"[]", json.dumps({"jobs": 1}).encode()):
            source.calls = 0
            redis_client.publish(broker.keys().changes_channel, hint)
            await until(lambda: source.calls)


async def test_with_nobody_watching_there_is_no_subscription(live: Hub, redis_client: redis.Redis) -> None:
    with live.watching(View("v", Source(a="1")), Page()):
        await until(lambda: subscribed(redis_client))
    await until(lambda: not subscribed(redis_client))


async def test_any_number_of_listeners_share_one_subscription(live: Hub, redis_client: redis.Redis) -> None:
    async with live.listening("logs") as first, live.listening("logs") as second:
        await until(lambda: redis_client.pubsub_numsub("logs")[0][1] == 1)
        await until(lambda: first.is_set() and second.is_set())  # one may have been missed before it stood
        hints = live.hints("logs")
        first.clear()
        second.clear()
        assert redis_client.publish("logs", "more") == 1
        await until(lambda: first.is_set() and second.is_set())
        assert live.hints("logs") == hints + 1


async def test_a_listener_that_comes_and_goes_leaves_the_others_theirs(live: Hub, redis_client: redis.Redis) -> None:
    async with live.listening("a") as stays:
        async with live.listening("b"):
            await until(lambda: redis_client.pubsub_numsub("b")[0][1] == 1)
        await until(lambda: redis_client.pubsub_numsub("b")[0][1] == 0)
        stays.clear()
        redis_client.publish("a", "more")
        await until(stays.is_set)


async def test_a_page_that_is_reloaded_hears_again_at_once(live: Hub, redis_client: redis.Redis) -> None:
    async with live.listening("other"):
        await until(lambda: subscribed(redis_client))
        for _ in range(20):
            async with live.listening("a") as signal:
                await until(signal.is_set)
        async with live.listening("a") as signal:
            await until(signal.is_set)
            signal.clear()
            await until(lambda: redis_client.publish("a", "more") == 1)
            await until(signal.is_set)


async def test_after_an_outage_of_redis_it_reconnects_and_shows_what_was_missed(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "REFRESH_SECONDS", 3600)
    monkeypatch.setattr(hub_module, "RECONNECT_SECONDS", (0.05, 0.2))
    port = free_port()
    settings.REDIS_URL = f"redis://127.0.0.1:{port}/0"
    server = start_redis(tmp_path, port)
    source, page = Source(a="1"), Page()
    try:
        async with hub().listening("logs") as grown:
            with hub().watching(View("v", source, lambda change: False), page):
                await settled(broker.client(), page, source)
                grown.clear()
                server.kill()
                server.wait()
                await until(lambda: page.statuses[-1] is False)
                source.fragments = {"a": "missed"}
                server = start_redis(tmp_path, port)
                await until(lambda: page.statuses[-1] is True)
                await until(lambda: page.offers == [{"a": "missed"}])
                await until(grown.is_set)
                await until(lambda: broker.client().pubsub_numsub("logs")[0][1] == 1)
    finally:
        server.kill()
        server.wait()


def test_an_unknown_change_is_of_everything_and_a_known_one_of_what_it_names() -> None:
    assert hub_module._parse(b'{"jobs": ["1"], "executors": ["e"]}') == Change(frozenset({"1"}), frozenset({"e"}))
    assert hub_module._parse(b"nonsense").everything


@pytest.mark.parametrize("steps", range(0, 24, 2))
async def test_who_begins_to_listen_while_the_subscription_is_being_made_hears_too(
    live: Hub, redis_client: redis.Redis, steps: int
) -> None:
    def heard(channel: str) -> bool:
        return redis_client.pubsub_numsub(channel)[0][1] > 0

    with live.watching(View("v", Source(a="1")), Page()):
        for _ in range(steps):
            await asyncio.sleep(0)
        async with live.listening("late"):
            await until(lambda: heard("late"), seconds=2)
