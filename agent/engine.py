"""The calls to the Docker Engine: short ones through docker-py in a few threads, streams on the event loop.

Every call raises docker.errors.APIError where the engine refuses, and EngineAway where it cannot be reached.
"""

import asyncio
import contextlib
import json
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import docker
import docker.auth
import docker.utils
import requests
from docker.errors import APIError, DockerException, NotFound

from agent.containers import LABEL_EXECUTOR

logger = logging.getLogger(__name__)
T = TypeVar("T")

READ_BYTES = 64 * 1024
CALL_TIMEOUT = 60
STREAM_TIMEOUT = 60
MOST_IMAGES = 200


class EngineAway(Exception):
    """The engine does not answer; the text says why."""


class Stream:
    """A response body read as it comes. Reading slowly slows the engine: little is buffered here."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._asked_at: float | None = None

    async def read(self) -> bytes:
        """The next bytes; b'' at the end, also where the connection was lost."""
        self._asked_at = time.monotonic()
        try:
            return await self._reader.read(READ_BYTES)
        except OSError:
            return b""
        finally:
            self._asked_at = None

    @property
    def silent_seconds(self) -> float:
        """How long whoever reads it has been waiting."""
        return time.monotonic() - self._asked_at if self._asked_at is not None else 0.0

    async def lines(self, silence: float | None = None) -> AsyncIterator[bytes]:
        """Raises EngineAway where nothing comes for `silence` seconds."""
        rest = b""
        while True:
            try:
                async with asyncio.timeout(silence):
                    data = await self.read()
            except TimeoutError:
                raise EngineAway(f"nothing was heard for {silence:g} s") from None
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line

    def close(self) -> None:
        self._writer.close()


class Engine:
    """The engine that DOCKER_HOST names, or the local one."""

    def __init__(self, workers: int, pull_timeout: int = 300, registry_auth_file: Path | None = None) -> None:
        """`pull_timeout`: seconds without a word after which a pull has failed. Logins for registries are read anew for
        each pull, from `registry_auth_file` or where Docker's own tools keep them."""
        self._environment = docker.utils.kwargs_from_env()
        self._threads = ThreadPoolExecutor(workers + 4, thread_name_prefix="docker")
        self._pull_timeout, self._registry_auth_file = pull_timeout, registry_auth_file
        self._client: docker.APIClient | None = None
        self.init_available = True
        self.generation = 0
        """Grows each time the engine was found away, so that a stream that ended may have been cut by that."""

    async def connect(self) -> str:
        """The engine's version, when it answers."""
        version: dict[str, Any] = await self._call(lambda client: client.version())
        return str(version.get("Version", ""))

    async def ping(self) -> None:
        await self._call(lambda client: client.ping())

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- containers

    async def create(self, settings: dict[str, Any], name: str) -> str:
        answer: dict[str, str] = await self._call(lambda client: client.create_container_from_config(settings, name))
        return answer["Id"]

    async def start(self, container_id: str) -> None:
        await self._call(lambda client: client.start(container_id))

    async def inspect(self, container: str) -> dict[str, Any]:
        return await self._call(lambda client: client.inspect_container(container))

    async def stats(self, container_id: str) -> dict[str, Any]:
        """The engine's counters of a container at this moment."""
        return await self._call(lambda api: api.stats(container_id, stream=False, one_shot=True))

    async def kill(self, container_id: str, signal: str) -> bool:
        """False where it was not running any more."""
        try:
            await self._call(lambda client: client.kill(container_id, signal))
        except APIError as error:
            if error.status_code in (404, 409) or "is not running" in str(error.explanation):
                return False
            raise
        return True

    async def remove(self, container_id: str) -> None:
        """Remove a container with its anonymous volumes, running or not; nothing happens where it is gone."""
        try:
            await self._call(lambda client: client.remove_container(container_id, v=True, force=True))
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409:  # Its removal is already in progress.
                raise

    async def containers_of(self, executor_id: str) -> list[dict[str, Any]]:
        """Our containers, running or not: Id, Names, Labels, State."""
        filters = {"label": f"{LABEL_EXECUTOR}={executor_id}"}
        return await self._call(lambda client: client.containers(all=True, filters=filters))

    # --- images

    async def images(self) -> list[list[object]]:
        """Name and bytes of each image that has a name, largest first; `MOST_IMAGES` at most."""
        found = await self._call(lambda client: client.images())
        named = [
            [name, image["Size"]] for image in found for name in image.get("RepoTags") or () if name != "<none>:<none>"
        ]
        return sorted(named, key=lambda item: (-item[1], item[0]))[:MOST_IMAGES]

    async def has_image(self, image: str) -> bool:
        try:
            await self._call(lambda client: client.inspect_image(image))
        except NotFound:
            return False
        return True

    async def pull(self, image: str, on_message: Callable[[dict[str, Any]], None]) -> None:
        """Pull an image; `on_message` gets each of the engine's progress messages, of which one may be an error."""
        repository, tag = docker.utils.parse_repository_tag(image)
        login = await asyncio.to_thread(self._login, repository)
        query: dict[str, Any] = {"fromImage": repository, "tag": tag or "latest"}
        stream = await self._open("POST", "/images/create", within=self._pull_timeout, login=login, **query)
        told_end = False
        try:
            async for line in stream.lines(self._pull_timeout):
                message = json.loads(line)
                told_end = told_end or "error" in message or str(message.get("status", "")).startswith("Status: ")
                on_message(message)
        except ValueError:
            raise EngineAway("the pull broke off") from None
        finally:
            stream.close()
        if not told_end and not await self.has_image(image):
            raise EngineAway("the pull broke off")

    def _login(self, repository: str) -> str:
        """The value of X-Registry-Auth for the repository's registry, or ''."""
        file = str(self._registry_auth_file) if self._registry_auth_file else None
        try:
            registry, _ = docker.auth.resolve_repository_name(repository)
            login = docker.auth.resolve_authconfig(docker.auth.load_config(file), registry)
        except DockerException as error:
            raise EngineAway(f"the login for its registry cannot be read: {_cause(error)}") from None
        return docker.auth.encode_header(login).decode() if login else ""

    # --- streams

    async def attach(self, container_id: str) -> Stream:
        """Everything that the container prints from now on, in frames."""
        return await self._open("POST", f"/containers/{container_id}/attach", stream=1, stdout=1, stderr=1)

    async def logs(self, container_id: str, *, follow: bool, since: str = "") -> Stream:
        """The engine's copy of the output from its start, or a time, in frames, each with a time stamp.

        `follow` goes on until the container ends, but may leave out the last lines (seen with Docker 20.10).
        """
        path = f"/containers/{container_id}/logs"
        begin: dict[str, Any] = {"since": f"{datetime.fromisoformat(since).timestamp():.6f}"} if since else {}
        return await self._open("GET", path, follow=int(follow), stdout=1, stderr=1, timestamps=1, **begin)

    async def events(self, executor_id: str) -> Stream:
        """What happens to our containers, a JSON object a line."""
        wanted = {
            "type": ["container"],
            "label": [f"{LABEL_EXECUTOR}={executor_id}"],
            "event": ["die", "oom", "kill", "destroy"],
        }
        return await self._open("GET", "/events", filters=json.dumps(wanted))

    async def _open(
        self, method: str, path: str, *, within: float = STREAM_TIMEOUT, login: str = "", **query: object
    ) -> Stream:
        """HTTP/1.0, whose bodies come as they are, without chunks."""
        request = f"{method} {path}?{urlencode(query, quote_via=quote)} HTTP/1.0\r\nHost: docker\r\n"
        if method == "POST":
            request += "Content-Length: 0\r\n"
        if login:
            request += f"X-Registry-Auth: {login}\r\n"
        try:
            async with asyncio.timeout(within):
                reader, writer = await self._connection()
                with _closed_on_error(writer):
                    writer.write(f"{request}\r\n".encode())
                    head = await reader.readuntil(b"\r\n\r\n")
                    status = int(head.split(b" ", 2)[1])
                    body = await reader.read() if status >= 400 else b""
        except TimeoutError:
            raise EngineAway(f"nothing was heard for {within:g} s") from None
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise EngineAway(str(error)) from None
        if status >= 400:
            writer.close()
            response = requests.Response()
            response.status_code = status
            text = body.decode(errors="replace").strip()
            raise (NotFound if status == 404 else APIError)(path, response=response, explanation=text)
        return Stream(reader, writer)

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._environment.get("base_url") or "unix:///var/run/docker.sock")
        if parts.scheme in ("unix", "http+unix"):
            return await asyncio.open_unix_connection(parts.path, limit=READ_BYTES)
        context = None
        if self._environment.get("tls"):
            context = _tls_context()
        return await asyncio.open_connection(parts.hostname, parts.port or 2375, limit=READ_BYTES, ssl=context)

    async def _call(self, work: Callable[[Any], T]) -> T:
        def run() -> T:
            if self._client is None:
                self._client = docker.APIClient(
                    version="auto", timeout=CALL_TIMEOUT, num_pools=4, max_pool_size=16, **self._environment
                )
            return work(self._client)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, run)
        except APIError:
            raise
        except (DockerException, requests.RequestException, OSError) as error:
            self._client = None
            raise EngineAway(_cause(error)) from None


@contextlib.contextmanager
def _closed_on_error(writer: asyncio.StreamWriter) -> Iterator[None]:
    try:
        yield
    except BaseException:
        writer.close()
        raise


def explanation(error: APIError) -> str:
    """Docker's own words."""
    return str(error.explanation or error)


def _tls_context() -> ssl.SSLContext:
    folder = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def _cause(error: BaseException) -> str:
    """The innermost reason, without the layers of HTTP libraries around it."""
    inner: BaseException = error
    while (deeper := inner.__cause__ or inner.__context__) is not None:
        inner = deeper
    return str(getattr(inner, "strerror", None) or inner or type(inner).__name__)
