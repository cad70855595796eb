"""Images pulled where they are missing: one pull an image however many attempts wait for it."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from docker.errors import APIError

from agent.containers import StartFailed, pull_failure
from agent.engine import Engine, EngineAway, explanation
from agent.protocol import Layer

Progress = Callable[[str, list[Layer]], None]
"""Is told how far a pull has come: in words, and layer by layer."""

_STATUSES = {
    "Pulling fs layer": "waiting",
    "Waiting": "waiting",
    "Downloading": "downloading",
    "Verifying Checksum": "downloaded",
    "Download complete": "downloaded",
    "Extracting": "unpacking",
    "Pull complete": "done",
    "Already exists": "done",
}
"""What the engine says of a layer, in the words of agent.protocol.Layer."""


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
        layers: dict[str, Layer] = {}
        failures: list[str] = []

        def tell() -> None:
            for listener in list(listeners):
                listener(describe(image, layers.values()), list(layers.values()))

        def on_message(message: dict[str, Any]) -> None:
            if "error" in message:
                failures.append(str(message["error"]))
            elif note(layers, message):
                tell()

        tell()
        try:
            await self._engine.pull(image, on_message)
        except APIError as error:
            raise pull_failure(image, explanation(error)) from None
        except EngineAway as error:
            raise StartFailed("image_pull_failed", f"{image} could not be pulled: {error}.") from None
        if failures:
            raise pull_failure(image, failures[0])


def note(layers: dict[str, Layer], message: dict[str, Any]) -> bool:
    """Bring `layers` up to date with one of the engine's messages; whether it was about a layer."""
    status, layer_id = _STATUSES.get(str(message.get("status", ""))), str(message.get("id", ""))
    if status is None or not layer_id:
        return False
    detail = message.get("progressDetail") or {}
    known = layers.get(layer_id, Layer(layer_id, status))
    total = max(int(detail.get("total") or 0), known.total)
    told = int(detail.get("current") or 0)
    current = total if status in ("downloaded", "done") else min(told, total) if told else 0
    layers[layer_id] = Layer(layer_id, status, current, total)
    return True


def describe(image: str, layers: Iterable[Layer]) -> str:
    """The state of a pull in words."""
    sized = [layer for layer in layers if layer.total]
    size = sum(layer.total for layer in sized)
    if not size:
        return f"pulling {image}"
    loading = any(
        layer.status == "waiting" or (layer.status == "downloading" and layer.current < layer.total) for layer in layers
    )
    if not loading and any(layer.status == "unpacking" for layer in sized):
        return f"unpacking {image}"
    done = sum(layer.current if layer.status == "downloading" else layer.total for layer in sized)
    return f"pulling {image}: {100 * done // size} % of {size / 1e6:.1f} MB"
