"""`python -m agent`: settings, log, signals; the agent itself is `agent/agent.py`."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from pathlib import Path

from agent import __version__, config, resources
from agent.agent import Agent
from agent.config import BadSetting, Config
from agent.state import State


def main() -> int:
    try:
        settings = config.load(sys.argv[1:])
        _log_to(settings.log_dir)
        state = State(settings.state_dir, settings.name)
    except BadSetting as error:
        print(error, file=sys.stderr)
        return 2
    _allow_many_files()
    try:
        asyncio.run(_run(settings, state))
    except OSError as error:
        logging.getLogger("agent").critical("The agent cannot go on: %s. Is the disk full?", error)
        return 1
    finally:
        state.close()
    return 0


def _allow_many_files() -> None:
    """A running job costs an open file or two, and a process may have 1,024 where nobody raises its limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _log_to(directory: Path) -> None:
    """Console and executor.log. Raises BadSetting where the file cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(directory / "executor.log")
    except OSError as error:
        raise BadSetting(
            f"LOG_DIR {directory} cannot be used: {error.strerror}. Name a folder this user can write to."
        ) from None
    logging.raiseExceptions = False  # A full disk costs lines of the log, not a traceback for each.
    logging.basicConfig(
        format="{asctime} {levelname} {name}: {message}",
        style="{",
        level=logging.INFO,
        handlers=[logging.StreamHandler(), file],
    )


async def _run(settings: Config, state: State) -> None:
    gpus = await resources.detect_gpus()
    address = await asyncio.to_thread(resources.address, settings.address, settings.redis_url)
    logging.getLogger("agent").info(
        "Agent %s, version %s, id %s: %g cores, %.1f GB, %d GPUs, address %s",
        settings.name,
        __version__,
        state.executor_id,
        settings.cpu_millicores / 1000,
        settings.memory_bytes / config.GB,
        len(gpus),
        address or "unknown",
    )
    running = asyncio.ensure_future(Agent(settings, state, gpus, address).run())
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        logging.getLogger("agent").info("Agent %s ends; its containers go on", settings.name)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # A thread that waits for a hanging Docker would hold up the end for minutes.
