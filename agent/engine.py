"""The calls to the Docker Engine, over its socket or wherever DOCKER_HOST says.

Every call raises docker.errors.APIError where the engine refuses, and EngineAway where it cannot be reached.
"""

import asyncio
import io
import json
import ssl
import tarfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import docker.auth
import docker.tls
import docker.utils
import requests
from docker.errors import APIError, DockerException, NotFound, create_api_error_from_http_exception

from agent import http, sandbox_image
from agent.containers import LABEL_EXECUTOR
from agent.http import Stream

CALL_TIMEOUT = 60
STREAM_TIMEOUT = 60
MOST_CALLS = 16
"""On their way at the same time, so that a thousand attempts do not ask all at once."""
MOST_IMAGES = 200


class EngineAway(Exception):
    """The engine does not answer; the text says why."""


class Engine:
    """The engine that DOCKER_HOST names, or the local one, spoken to in the newest version of its API."""

    def __init__(self, pull_timeout: int = 300, registry_auth_file: Path | None = None) -> None:
        """`pull_timeout`: seconds without a word after which a pull has failed. Logins for registries are read anew for
        each pull, from `registry_auth_file` or where Docker's own tools keep them."""
        self._pool = http.Pool(_connection, MOST_CALLS)
        self._version = ""
        self._pull_timeout, self._registry_auth_file = pull_timeout, registry_auth_file
        self.architecture = ""
        self.init_available = True
        self.generation = 0
        """Grows each time the engine was found away, so that a stream that ended may have been cut by that."""

    async def connect(self) -> str:
        """The engine's version, when it answers."""
        version: dict[str, Any] = json.loads(await self._send("GET", "/version"))
        self._version = str(version.get("ApiVersion", ""))
        self.architecture = str(version.get("Arch", ""))
        return str(version.get("Version", ""))

    async def ping(self) -> None:
        """Never held up by other calls."""
        await self._send("GET", "/_ping", urgent=True)

    def close(self) -> None:
        self._pool.close()

    # --- containers

    async def create(self, settings: dict[str, Any], name: str) -> str:
        """Its id. Where the engine had taken the name already it refuses with status 409, also where that was us."""
        answer: dict[str, str] = await self._call("POST", "/containers/create", settings, repeat=True, name=name)
        return answer["Id"]

    async def start(self, container_id: str) -> None:
        """Nothing happens where it runs."""
        await self._call("POST", f"/containers/{container_id}/start", repeat=True)

    async def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = await self._call("GET", f"/containers/{container}/json")
        return found

    async def file_in(self, container_id: str, path: str) -> bytes:
        """The content of a small file in a container. Raises tarfile.TarError where the engine packs it otherwise."""
        packed = await self._send("GET", await self._target(f"/containers/{container_id}/archive", {"path": path}))
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            found = [archive.extractfile(member) for member in archive]
            return found[0].read() if found and found[0] else b""

    async def stats(self, container_id: str) -> dict[str, Any]:
        """The engine's counters of a container at this moment."""
        query: dict[str, Any] = {"stream": 0, "one-shot": 1}
        counters: dict[str, Any] = await self._call("GET", f"/containers/{container_id}/stats", **query)
        return counters

    async def kill(self, container_id: str, signal: str) -> bool:
        """False where it was not running any more."""
        try:
            await self._call("POST", f"/containers/{container_id}/kill", repeat=False, signal=signal)
        except APIError as error:
            if error.status_code in (404, 409) or "is not running" in str(error.explanation):
                return False
            raise
        return True

    async def remove(self, container_id: str) -> None:
        """Remove a container with its anonymous volumes, running or not; nothing happens where it is gone."""
        try:
            await self._call("DELETE", f"/containers/{container_id}", v=1, force=1)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409:  # Its removal is already in progress.
                raise

    async def containers_of(self, executor_id: str) -> list[dict[str, Any]]:
        """Our containers, running or not: Id, Names, Labels, State."""
        filters = json.dumps({"label": [f"{LABEL_EXECUTOR}={executor_id}"]})
        found: list[dict[str, Any]] = await self._call("GET", "/containers/json", all=1, filters=filters)
        return found

    # --- images

    async def images(self) -> list[list[object]]:
        """Name and bytes of each image that has a name, largest first; `MOST_IMAGES` at most."""
        found = await self._call("GET", "/images/json")
        hidden = ("<none>:<none>", sandbox_image.NAME)
        named = [[name, image["Size"]] for image in found for name in image.get("RepoTags") or () if name not in hidden]
        return sorted(named, key=lambda item: (-item[1], item[0]))[:MOST_IMAGES]

    async def has_image(self, image: str) -> bool:
        try:
            await self._call("GET", f"/images/{quote(image, safe='/:@')}/json")
        except NotFound:
            return False
        return True

    async def import_image(self, archive: bytes, repository: str, tag: str) -> None:
        """Make an image of one layer from a tar archive."""
        target = await self._target("/images/create", {"fromSrc": "-", "repo": repository, "tag": tag})
        await self._send("POST", target, archive, kind="application/x-tar")

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
        except TimeoutError:
            raise EngineAway(f"nothing was heard for {self._pull_timeout:g} s") from None
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
            raise EngineAway(f"the login for its registry cannot be read: {error}") from None
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

    async def remembered(self, until: float) -> list[tuple[str, str]]:
        """The newest events since the engine was started, up to a time: (container id, action), others as ('', …)."""
        stream = await self._open("GET", "/events", since="1", until=f"{until:.3f}")
        found = []
        try:
            async for line in stream.lines(STREAM_TIMEOUT):
                event = json.loads(line)
                found.append((event["Actor"]["ID"] if event["Type"] == "container" else "", str(event["Action"])))
        except (TimeoutError, ValueError) as error:
            raise EngineAway(f"it does not tell of its past: {error}") from None
        finally:
            stream.close()
        return found

    async def _open(
        self, method: str, path: str, *, within: float = STREAM_TIMEOUT, login: str = "", **query: object
    ) -> Stream:
        target = await self._target(path, query)
        headers = {"X-Registry-Auth": login} if login else {}
        try:
            answer, stream = await self._pool.open(method, target, headers, within=within)
        except OSError as error:
            raise _away(error, within) from None
        if stream is None:
            raise _refusal(target, answer)
        return stream

    # --- how it is spoken to

    async def _call(self, method: str, path: str, body: object = None, *, repeat: bool = True, **query: object) -> Any:
        """The JSON of its answer, None where that is empty."""
        data = b"" if body is None else json.dumps(body).encode()
        answer = await self._send(method, await self._target(path, query), data, repeat=repeat)
        return json.loads(answer) if answer else None

    async def _target(self, path: str, query: dict[str, object]) -> str:
        if not self._version:
            await self.connect()
        version = f"/v{self._version}" if self._version else ""
        return f"{version}{path}?{urlencode(query, quote_via=quote)}" if query else version + path

    async def _send(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        kind: str = "application/json",
        *,
        repeat: bool = True,
        urgent: bool = False,
    ) -> bytes:
        call = self._pool.call(method, target, body, kind, within=CALL_TIMEOUT, repeat=repeat, urgent=urgent)
        try:
            answer = await call
        except OSError as error:
            raise _away(error, CALL_TIMEOUT) from None
        if answer.status >= 400:
            raise _refusal(target, answer)
        return answer.body


async def _connection() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A new connection to the engine. Raises OSError, also for settings that cannot be used."""
    try:
        settings = docker.utils.kwargs_from_env()
        tls = settings.get("tls")
        address = str(docker.utils.parse_host(settings.get("base_url"), tls=bool(tls)))
    except DockerException as error:
        raise OSError(f"DOCKER_HOST or DOCKER_CERT_PATH cannot be used: {error}") from None
    scheme, _, place = address.partition("://")
    if scheme == "http+unix":
        return await asyncio.open_unix_connection("/" + place.lstrip("/"), limit=http.READ_BYTES)
    if scheme not in ("http", "https"):
        raise OSError(f"DOCKER_HOST cannot be used: {address} is neither unix://PATH nor tcp://HOST:PORT")
    parts = urlsplit(address)
    context = _tls_context(tls) if scheme == "https" else None
    return await asyncio.open_connection(parts.hostname, parts.port, limit=http.READ_BYTES, ssl=context)


def _tls_context(tls: docker.tls.TLSConfig | None) -> ssl.SSLContext:
    """What docker's own tools do: DOCKER_TLS_VERIFY decides whether the engine must prove who it is."""
    context = ssl.create_default_context(cafile=tls.ca_cert if tls and tls.verify else None)
    if tls:
        if tls.cert:
            context.load_cert_chain(*tls.cert)
        if not tls.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _away(error: OSError, within: float) -> EngineAway:
    if isinstance(error, TimeoutError):
        return EngineAway(f"nothing was heard for {within:g} s")
    return EngineAway(error.strerror or str(error) or type(error).__name__)


def _refusal(target: str, answer: http.Answer) -> APIError:
    """As docker-py tells it, whose classes of errors they are."""
    response = requests.Response()
    response.status_code, response.reason, response.url = answer.status, answer.reason, target
    response.raw = io.BytesIO(answer.body)
    try:
        create_api_error_from_http_exception(requests.HTTPError(response=response))
    except APIError as error:
        return error.with_traceback(None)


def explanation(error: APIError) -> str:
    """Docker's own words."""
    return str(error.explanation or error)
