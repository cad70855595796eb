"""Frames to lines to Redis."""

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.batch import Batch
from agent.logs import (
    MAX_LINE,
    STDERR,
    STDOUT,
    FrameParser,
    LineSplitter,
    LogWriter,
    OutOfStep,
    Position,
    Reached,
    Superseded,
    as_stored,
    merge,
)
from agent.protocol import Keys

BEGIN = Position()
FFFD = "\N{REPLACEMENT CHARACTER}".encode()


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    """`data` in pieces as a socket may deliver it."""
    points = sorted(rng.sample(range(len(data) + 1), min(len(data), rng.randint(0, 6))))
    return [data[a:b] for a, b in zip([0, *points], [*points, len(data)], strict=True)]


def split(chunks: list[bytes], start: Position = BEGIN) -> tuple[list[bytes], LineSplitter]:
    splitter = LineSplitter(start)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return lines, splitter


# --- Frames ----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=40))), st.randoms())
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    frames: list[tuple[int, bytes]], rng: random.Random
) -> None:
    parser = FrameParser()
    data = b"".join(frame(*item) for item in frames)
    assert [item for chunk in cut(data, rng) for item in parser.feed(chunk)] == frames


def test_merging_joins_only_neighbours_of_one_stream() -> None:
    frames = [(STDOUT, b"a"), (STDOUT, b"b"), (STDERR, b"c"), (STDOUT, b"d")]
    assert merge(frames) == [(STDOUT, b"ab"), (STDERR, b"c"), (STDOUT, b"d")]


# --- Lines -----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=30)), st.randoms()
)
def test_lines_are_whole_however_the_bytes_are_cut(texts: list[str], rng: random.Random) -> None:
    lines, splitter = split(cut("".join(text + "\n" for text in texts).encode(), rng))
    assert [line.decode() for line in lines] == texts
    assert splitter.flush() == []
    assert splitter.position == Position(len(texts), 0)


def test_a_last_line_without_newline_comes_at_the_end() -> None:
    lines, splitter = split([b"one\ntw", b"o"])
    assert (lines, splitter.flush(), splitter.flush()) == ([b"one"], [b"two"], [])
    assert splitter.position == Position(1, 3)


def test_invalid_utf8_and_nul_are_replaced_and_newlines_kept() -> None:
    lines, _ = split([b"a\xff\xfeb\n\xe2\x82\nx\0y\n"])
    assert lines == [b"a" + 2 * FFFD + b"b", FFFD, b"x" + FFFD + b"y"]


@pytest.mark.parametrize(
    ("length", "pieces"), [(MAX_LINE, 1), (MAX_LINE + 1, 2), (2 * MAX_LINE, 2), (2 * MAX_LINE + 1, 3)]
)
@pytest.mark.parametrize("size", [1000, 10**6])
def test_a_long_line_is_stored_in_pieces_independent_of_how_it_arrives(length: int, pieces: int, size: int) -> None:
    data = b"x" * length + b"\nshort\n"
    lines, _ = split([data[at : at + size] for at in range(0, len(data), size)])
    assert len(lines) == pieces + 1 and lines[-1] == b"short"
    assert b"".join(lines[:-1]) == b"x" * length


def test_a_long_line_is_not_cut_within_a_character() -> None:
    text = "€" * MAX_LINE
    lines, _ = split([text.encode() + b"\n"])
    assert b"".join(lines).decode() == text
    assert all(len(line) <= MAX_LINE and FFFD not in line for line in lines)


@settings(deadline=None)
@given(st.integers(0, 400), st.randoms())
def test_taking_up_at_any_position_gives_exactly_the_rest(stop: int, rng: random.Random) -> None:
    """What the live stream delivered up to some moment and what is then read from the engine's copy make the whole."""
    raw = b"".join(
        rng.choice([b"line\n", b"\n", "é".encode(), b"\xff", FFFD, b"x" * 50_000, b"tail"]) for _ in range(40)
    )
    chunks = cut(raw, rng)
    before, first = split(chunks[: stop % (len(chunks) + 1)])
    # The engine's copy: the same bytes with each invalid one as U+FFFD.
    stored = b"".join(
        FFFD if 0xDC80 <= ord(char) <= 0xDCFF else char.encode() for char in raw.decode("utf-8", "surrogateescape")
    )
    after, second = split([as_stored(line) for line in stored.splitlines(keepends=True)], first.position)
    whole, third = split([raw])
    resumed, straight = before + after + second.flush(), whole + third.flush()
    assert b"".join(resumed) == b"".join(straight)
    if max(map(len, raw.split(b"\n"))) <= MAX_LINE:  # Else pieces may be cut at another byte, none lost or doubled.
        assert resumed == straight
    assert second.position == third.position


# --- Redis -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def make_writer(redis_server: str, redis_client: redis.Redis) -> AsyncIterator[Callable[..., LogWriter]]:
    client = redis.asyncio.Redis.from_url(redis_server)

    async def once(call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()

    def make(attempt: int = 1, limit_bytes: int = 10**6) -> LogWriter:
        return LogWriter(
            client,
            Keys(),
            "j",
            attempt,
            limit_bytes=limit_bytes,
            patiently=once,
        )

    yield make
    await client.aclose()


def log(client: redis.Redis) -> list[bytes]:
    return client.lrange("job_logs:j", 0, -1)  # type: ignore[return-value]


def meta(client: redis.Redis, field: str) -> bytes | None:
    return client.hget("job_logs_meta:j", field)  # type: ignore[return-value]


async def test_what_redis_refuses_is_raised_and_the_next_batch_gets_its_own_answer(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    writer = make_writer()
    await writer.open()
    used, most = redis_client.info("memory")["used_memory"], redis_client.config_get("maxmemory")["maxmemory"]
    redis_client.config_set("maxmemory", used // 2)
    try:
        with pytest.raises(redis.OutOfMemoryError):
            await writer.append(Batch([b"a"]), Position(1), BEGIN)
    finally:
        redis_client.config_set("maxmemory", most or "0")
    await writer.append(Batch([b"a", b"b"]), Position(2), BEGIN)
    assert (log(redis_client), writer.shipped) == ([b"a", b"b"], 2)

    redis_client.set("job_logs:j", "no list")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await writer.append(Batch([b"c"]), Position(3), BEGIN)


async def test_an_attempt_that_was_cut_off_says_so_where_the_next_begins_and_a_whole_one_says_nothing(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    first, second, third = (make_writer(attempt) for attempt in (1, 2, 3))
    await first.open()
    await first.append(Batch([b"t stdout a"]), Position(1), BEGIN)
    await second.open()
    await second.open()
    await second.append(Batch([b"t stdout b"]), Position(1), BEGIN)
    await second.close()
    await third.open()
    kept = log(redis_client)
    assert [line.split(b" ", 2)[2] for line in kept] == [
        b"a",
        b"[workload-runner] Attempt 1 was cut off here; whatever else it printed is missing",
        b"b",
    ]
    assert (meta(redis_client, "lines"), meta(redis_client, "begin:2"), meta(redis_client, "begin:3")) == (
        b"3",
        b"2",
        b"3",
    )
    assert int(meta(redis_client, "bytes") or 0) == sum(map(len, kept))


async def test_a_batch_sent_again_because_its_answer_was_lost_is_written_once(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    writer = make_writer()
    await writer.open()
    twin = make_writer()
    await twin.open()
    for each in (writer, twin):
        await each.append(Batch([b"a", b"b"]), Position(2, 0), Position())
    await twin.append(Batch([b"c"]), Position(2, 1), Position(0, 4))
    assert log(redis_client) == [b"a", b"b", b"c"]
    reached = await make_writer().open()
    assert (reached.stdout, reached.stderr) == (Position(2, 1), Position(0, 4))


async def test_an_emptied_redis_is_noticed(make_writer: Callable[..., LogWriter], redis_client: redis.Redis) -> None:
    writer = make_writer()
    await writer.open()
    await writer.append(Batch([b"a"]), Position(1), Position())
    redis_client.flushall()
    with pytest.raises(OutOfStep):
        await writer.append(Batch([b"b"]), Position(2), Position())
    with pytest.raises(OutOfStep):
        await writer.close()
    assert await writer.open() == Reached("", "", Position(), Position())
    await writer.append(Batch([b"a", b"b"]), Position(2), Position())
    assert log(redis_client) == [b"a", b"b"]


async def test_a_superseded_attempt_writes_nothing_more(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    old, new = make_writer(1), make_writer(2)
    await old.open()
    await old.append(Batch([b"old"]), Position(1), Position())
    await old.close()
    assert meta(redis_client, "complete") == b"1"
    redis_client.expire("job_logs:j", 100)  # As the archiver does
    await new.open()
    assert (meta(redis_client, "complete"), redis_client.ttl("job_logs:j")) == (b"0", -1)
    for late in (old.open(), old.append(Batch([b"late"]), Position(2), Position()), old.close()):
        with pytest.raises(Superseded):
            await late
    await new.append(Batch([b"new"]), Position(1), Position())
    assert log(redis_client) == [b"old", b"new"]
    assert meta(redis_client, "lines") == b"2"


async def fill(writer: LogWriter, batches: int) -> None:
    """Batches of 300 lines and 3000 bytes."""
    await writer.open()
    for batch in range(batches):
        lines = [b"%09d." % (batch * 300 + number) for number in range(300)]
        await writer.append(Batch(lines), Position(300 * (batch + 1)), Position())


async def test_a_log_over_its_limit_leaves_its_archived_lines_to_the_archive(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    writer = make_writer(limit_bytes=10_000)
    await writer.open()
    redis_client.hset("job_logs_meta:j", "archived", 10**6)
    await fill(writer, 10)
    kept = log(redis_client)
    assert int(meta(redis_client, "lines") or 0) == 3000
    assert int(meta(redis_client, "dropped") or 0) == 3000 - len(kept)
    assert int(meta(redis_client, "bytes") or 0) == 10 * len(kept) <= 10_000
    assert len(kept) >= 900
    assert kept == [b"%09d." % number for number in range(3000 - len(kept), 3000)]


async def test_no_line_leaves_redis_before_it_is_archived(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    writer = make_writer(limit_bytes=10_000)
    await writer.open()
    redis_client.hset("job_logs_meta:j", "archived", 450)
    await fill(writer, 5)
    assert meta(redis_client, "dropped") == b"450"
    assert log(redis_client) == [b"%09d." % number for number in range(450, 1500)]


async def test_a_log_stays_as_long_as_it_says_whoever_wrote_its_lines_and_however_far_the_archive_is(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    chance = random.Random(1)
    redis_client.hset("job_logs_meta:j", "archived", 0)
    written: list[bytes] = []
    for attempt in (1, 2, 3):
        writer = make_writer(attempt, limit_bytes=3000)
        begin = len(written)
        for batch in range(60):
            if batch % 20 == 0:
                await writer.open()
            lines = [b"x" * chance.randrange(60) for _ in range(chance.randrange(1, 40))]
            written += lines
            archived = chance.randint(int(meta(redis_client, "archived") or 0), len(written) - len(lines))
            redis_client.hset("job_logs_meta:j", mapping={"archived": archived, "unarchived": 0})
            await writer.append(Batch(lines), Position(len(written) - begin), BEGIN)
            held, dropped = log(redis_client), int(meta(redis_client, "dropped") or 0)
            assert held == written[dropped:]
            assert int(meta(redis_client, "bytes") or 0) == sum(map(len, held))
            assert dropped <= archived
            assert sum(map(len, held)) <= 3000 or dropped == archived
        await writer.close()


async def test_what_a_writer_put_into_redis_itself_is_dropped_without_a_look_at_each_line(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    writer = make_writer(limit_bytes=10_000)
    await writer.open()
    redis_client.hset("job_logs_meta:j", "archived", 3000)
    redis_client.config_resetstat()
    await fill(writer, 10)
    assert int(meta(redis_client, "dropped") or 0) >= 1800
    assert "cmdstat_lpop" not in redis_client.info("commandstats")


async def test_a_writer_waits_while_twice_the_limit_is_not_archived(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    writer = make_writer(limit_bytes=10_000)
    filling = asyncio.create_task(fill(writer, 8))
    while redis_client.llen("job_logs:j") < 1800:  # noqa: ASYNC110 nothing announces it
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    assert (redis_client.llen("job_logs:j"), redis_client.zscore("logs_to_archive", "j")) == (1800, 0)
    redis_client.hset("job_logs_meta:j", "archived", 1800)
    async with asyncio.timeout(5):
        await filling
    assert int(meta(redis_client, "lines") or 0) == 2400
    assert log(redis_client)[-1] == b"000002399."


def begin_when_it_may(writer: LogWriter) -> "asyncio.Task[Reached]":
    return asyncio.create_task(writer.open())


async def wait_until(probe: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not probe():  # noqa: ASYNC110 nothing announces it
            await asyncio.sleep(0.01)


async def test_5_a_later_attempt_waits_for_one_that_waits_for_the_archive_and_no_line_is_lost(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    first, second, third = (make_writer(attempt, limit_bytes=10_000) for attempt in (1, 2, 3))
    filling = asyncio.create_task(fill(first, 8))
    await wait_until(lambda: meta(redis_client, "waits:1"))
    opening = [begin_when_it_may(second), begin_when_it_may(third)]
    await wait_until(lambda: meta(redis_client, "waits:3"))
    assert meta(redis_client, "attempt") == b"1"
    redis_client.hset("job_logs_meta:j", "archived", 1800)
    await filling
    assert not any(task.done() for task in opening), "it may have more to write"
    await first.close()
    await opening[0]
    await second.append(Batch([b"t stdout b"]), Position(1), BEGIN)
    await second.close()
    await opening[1]
    kept = log(redis_client)
    assert kept[-2:] == [b"000002399.", b"t stdout b"]
    assert (meta(redis_client, "begin:2"), meta(redis_client, "begin:3")) == (b"2400", b"2401")
    assert not [name for name in redis_client.hkeys("job_logs_meta:j") if b"waits:" in name and name != b"waits:3"]


async def test_an_attempt_that_waits_and_is_not_heard_of_any_more_is_not_waited_for(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    filling = asyncio.create_task(fill(make_writer(1, limit_bytes=10_000), 8))
    await wait_until(lambda: meta(redis_client, "waits:1"))
    opening = begin_when_it_may(make_writer(2))
    await wait_until(lambda: meta(redis_client, "waits:2"))
    for task in (filling, opening):
        task.cancel()
    redis_client.hset("job_logs_meta:j", mapping={"waits:1": 1, "waits:2": 1})
    await make_writer(3).open()
    assert [line.split(b" ", 2)[2] for line in log(redis_client)[1800:]] == [
        b"[workload-runner] Attempt %d was cut off here; whatever else it printed is missing" % attempt
        for attempt in (1, 2)
    ]


async def test_the_archive_is_asked_for_in_time(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    writer = make_writer()
    await writer.open()
    redis_client.delete("logs_to_archive")  # A log that begins is looked at once.
    await writer.append(Batch([b"a"]), Position(1), Position())
    assert (redis_client.zscore("logs_to_archive", "j") or 0) > redis_client.time()[0] + 10
    await writer.append(Batch([b"x" * 10**6]), Position(2), Position())
    assert redis_client.zscore("logs_to_archive", "j") == 0
    redis_client.delete("logs_to_archive")
    await writer.close()
    assert redis_client.zscore("logs_to_archive", "j") == 0


async def test_readers_are_told_of_growth_and_of_the_end(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    with redis_client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("live:logs:j")
        listener.get_message(timeout=1)
        writer = make_writer()
        await writer.open()
        await writer.append(Batch([b"a", b"b"]), Position(2), Position())
        await writer.close()
        told = [listener.get_message(timeout=1), listener.get_message(timeout=1)]
    assert [message and message["data"] for message in told] == [b"2", b"2"]


async def test_a_batch_of_very_many_lines_goes_in(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    writer = make_writer()
    await writer.open()
    await writer.append(Batch([b""] * 65_536), Position(65_536), Position())
    assert redis_client.llen("job_logs:j") == 65_536


# --- Unfinished lines ------------------------------------------------------------------------------------------


def test_what_stands_behind_the_last_newline_is_told_whole_characters_only_and_in_bounds() -> None:
    splitter = LineSplitter()
    splitter.feed("done\n 45 %|█".encode()[:-1])
    assert splitter.unfinished.decode() == " 45 %|"
    splitter.feed("█".encode()[-1:] + b"\0\xff")
    assert splitter.unfinished.decode() == " 45 %|█\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
    splitter.feed(b"\n" + "é".encode() * 5000 + b"x")
    assert splitter.unfinished.decode() == "é" * 2047 + "x"
    splitter.feed(b"\n")
    assert splitter.unfinished == b""


async def test_unfinished_lines_are_told_beside_the_log_and_never_become_part_of_it(
    make_writer: Callable[..., LogWriter], redis_client: redis.Redis
) -> None:
    writer = make_writer()
    await writer.open()
    await writer.append(Batch([b"t stdout one"]), Position(1), Position(), (b"", b"50 %"))
    await writer.tell((b"", b"50 %\r60 %"))
    told = [meta(redis_client, field) for field in ("tail_stdout", "tail_stderr", "lines")]
    assert told == [b"", b"50 %\r60 %", b"1"]
    assert (await writer.open()).stdout == Position(1), "who goes on at a position hears the rest again"
    assert meta(redis_client, "tail_stderr") is None
    await writer.tell((b"more", b""))
    await writer.close()
    assert meta(redis_client, "tail_stdout") is None
    assert log(redis_client) == [b"t stdout one"]
    redis_client.flushdb()
    with pytest.raises(OutOfStep):
        await writer.tell((b"again", b""))
