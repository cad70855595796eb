"""The agent's connections to Redis, against a real one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as Refused

from agent import link as link_module
from agent.config import Config
from agent.link import Link


@pytest.fixture
async def link(redis_server: str, tmp_path: Path) -> AsyncIterator[Link]:
    config = Config(
        name="n1",
        state_dir=tmp_path,
        redis_url=redis_server,
        cpu_millicores=1000,
        memory_bytes=2**30,
        start_concurrency=1,
        poll_interval=0.1,
    )
    link = Link(config, "n1", on_return=lambda: None)
    yield link
    await link.close()


async def test_a_receiver_told_to_end_in_the_very_moment_of_writing_ends(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiving = asyncio.create_task(link.receive(0, lambda seq, command: None))
    drain = asyncio.StreamWriter.drain

    async def drained_and_cancelled(writer: asyncio.StreamWriter) -> None:
        await drain(writer)
        receiving.cancel()

    monkeypatch.setattr(asyncio.StreamWriter, "drain", drained_and_cancelled)
    await asyncio.wait({receiving}, timeout=0.05)  # within its first command
    monkeypatch.undo()
    await asyncio.wait({receiving}, timeout=2)
    ended = receiving.done()
    receiving.cancel()
    assert ended


async def test_once_redis_answers_one_who_waits_all_who_wait_try_again_at_once(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "FIRST_DELAY", 1000.0)
    monkeypatch.setattr(link_module, "LONGEST_DELAY", 1000.0)
    refused = asyncio.Event()

    async def ask() -> str:
        if not refused.is_set():
            refused.set()
            raise Refused
        return "answer"

    waiting = asyncio.create_task(link.patiently(ask))
    await refused.wait()
    await link.patiently(ask)
    async with asyncio.timeout(5):
        assert await waiting == "answer"
