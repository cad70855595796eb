"""Containers of ours that are of no use any more: of attempts that were reported, and sandboxes that nobody needs."""

import asyncio
import contextlib
import logging
from typing import Any

from docker.errors import APIError

from agent.containers import ENDED, LABEL_ATTEMPT, LABEL_JOB, LABEL_SANDBOX, joined
from agent.engine import Engine, EngineAway, explanation
from agent.sandboxes import Sandboxes
from agent.state import State

logger = logging.getLogger(__name__)

INTERVAL = 600
"""Seconds between two looks; what is found then is such as a container whose creation was answered too late."""
RETRY, LONGEST_RETRY = 2.0, 60.0


class Sweeper:
    """Removes left-overs: at first, when told to look, and now and then."""

    def __init__(self, engine: Engine, state: State, sandboxes: Sandboxes) -> None:
        self._engine, self._state, self._sandboxes = engine, state, sandboxes
        self._wanted = asyncio.Event()

    def look(self) -> None:
        """Docker was away: there may be some."""
        self._wanted.set()

    async def run(self) -> None:
        """For ever."""
        delay = RETRY
        while True:
            self._wanted.clear()
            done = await self._remove_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL if done else delay):
                    await self._wanted.wait()
            delay = RETRY if done else min(2 * delay, LONGEST_RETRY)

    async def _remove_all(self) -> bool:
        """False where something has to be tried again. One that cannot be removed holds up no other."""
        done = True
        try:
            for container in self._leftovers(await self._engine.containers_of(self._state.executor_id)):
                name = container["Names"][0].lstrip("/")
                try:
                    await self._engine.remove(container["Id"])
                    logger.info("Removed the left-over container %s", name)
                except APIError as error:
                    logger.warning("The left-over container %s cannot be removed yet: %s", name, explanation(error))
                    done = False
        except (EngineAway, APIError):
            return False
        return done

    def _leftovers(self, containers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A sandbox comes after what has joined it. A container that is kept for its log needs its sandbox no more."""

        def needed(container: dict[str, Any]) -> bool:
            labels = container["Labels"]
            return self._state.keeps(labels.get(LABEL_JOB, ""), labels.get(LABEL_ATTEMPT, ""))

        sandboxes = [container for container in containers if LABEL_SANDBOX in container["Labels"]]
        others = [container for container in containers if LABEL_SANDBOX not in container["Labels"]]
        in_use = {joined(item) for item in others if needed(item) and item["State"] not in ENDED}
        return [container for container in others if not needed(container)] + [
            container
            for container in sandboxes
            if container["Id"] not in in_use
            and not self._sandboxes.keeps(container["Id"], container["Names"][0].lstrip("/"))
        ]
