"""Images pulled where they are missing: one pull an image however many attempts wait for it."""

import asyncio
from collections.abc import Callable
from typing import Any

from docker.errors import APIError

from agent.containers import StartFailed, pull_failure
from agent.engine import Engine, EngineAway, explanation

Progress = Callable[[str], None]


class Images:
    """The pulls of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pulls: dict[str, tuple[asyncio.Task[None], list[Progress]]] = {}

    async def pull(self, image: str, on_progress: Progress) -> None:
        """Wait until the image was pulled. A waiter that is cancelled leaves the pull to the others.

        Raises StartFailed, with the reason in Docker's words.
        """
        if image not in self._pulls:
            listeners: list[Progress] = []
            task = asyncio.create_task(self._pull(image, listeners), name=f"pull {image}")
            task.add_done_callback(lambda done: self._pulled(image, done))
            self._pulls[image] = task, listeners
        task, listeners = self._pulls[image]
        listeners.append(on_progress)
        try:
            await asyncio.shield(task)
        finally:
            listeners.remove(on_progress)

    def _pulled(self, image: str, task: asyncio.Task[None]) -> None:
        del self._pulls[image]
        if not task.cancelled():
            task.exception()  # Seen here, for when every waiter has gone.

    async def _pull(self, image: str, listeners: list[Progress]) -> None:
        layers: dict[str, tuple[int, int]] = {}
        failures: list[str] = []

        def tell(text: str) -> None:
            for listener in list(listeners):
                listener(text)

        def on_message(message: dict[str, Any]) -> None:
            if "error" in message:
                failures.append(str(message["error"]))
            elif text := describe(image, layers, message):
                tell(text)

        tell(f"pulling {image}")
        try:
            await self._engine.pull(image, on_message)
        except APIError as error:
            raise pull_failure(image, explanation(error)) from None
        except EngineAway as error:
            raise StartFailed("image_pull_failed", f"{image} could not be pulled: {error}.") from None
        if failures:
            raise pull_failure(image, failures[0])


def describe(image: str, layers: dict[str, tuple[int, int]], message: dict[str, Any]) -> str:
    """The state of a pull in words, `layers` (done and total bytes of each) brought up to date; '' if unchanged."""
    detail = message.get("progressDetail") or {}
    total = detail.get("total")
    status = str(message.get("status", ""))
    layer = str(message.get("id", ""))
    if status == "Downloading" and total:
        layers[layer] = int(detail.get("current", 0)), int(total)
    elif status in ("Download complete", "Pull complete") and layer in layers:
        layers[layer] = layers[layer][1], layers[layer][1]
    elif status == "Extracting" and layers and all(done == size for done, size in layers.values()):
        return f"unpacking {image}"
    else:
        return ""
    done, size = (sum(numbers) for numbers in zip(*layers.values(), strict=True))
    return f"pulling {image}: {100 * done // size} % of {size / 1e6:.1f} MB"
