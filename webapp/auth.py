"""Who is asking, and whether they may come in at all; what each role may do comes later.

- On a loopback address with OPEN_TO_LOCAL_USER, a request from this machine acts as the superuser `local`.
- Everybody else logs in: pages with the session, scripts with the session or HTTP Basic.
- A foreign web page open in the browser of either can send nothing that changes anything.
"""

import base64
import binascii
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth import authenticate
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.http.request import split_domain_port
from django.utils.functional import SimpleLazyObject

from webapp.errors import error_response, is_api_path

LOCAL_USER = "local"
OPEN_PATHS = ("/health", "/api/v1/health", "/login/", "/executors/join/agent.tar.gz")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
FORWARDED = ("x-forwarded-for", "x-forwarded-host", "x-real-ip", "forwarded", "via")
"""Headers of a proxy: who came through one is not at this machine, whatever the headers say."""

GetResponse = Callable[[HttpRequest], HttpResponse]


class LocalUserMiddleware:
    """Requests from this machine act as the superuser `local`, where OPEN_TO_LOCAL_USER says so."""

    def __init__(self, get_response: GetResponse) -> None:
        refuse_open_network()
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if is_local(request.META.get("REMOTE_ADDR", ""), request.headers):
            request.user = SimpleLazyObject(local_user)  # type: ignore[assignment]
        return self.get_response(request)


class LoginRequiredMiddleware:
    """Lets in who is known: others are sent to the login page, or answered 401 by the API.

    API requests that change something are refused where a page of another site sent them: views of the API have no CSRF
    token, so this is what protects the session, the open local server and remembered HTTP Basic passwords alike.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        for_api = is_api_path(request.path)
        if for_api and request.method not in SAFE_METHODS and is_cross_site(request):
            return error_response(403, "A page of another site may not change anything here.", "cross_site")
        if request.path in OPEN_PATHS or request.path.startswith(settings.STATIC_URL):
            return self.get_response(request)
        if for_api and "Authorization" in request.headers:
            user = basic_user(request)
            if user is None:
                return _unauthorized("The name or the password is wrong, or the header is not HTTP Basic.")
            request.user = user
        if request.user.is_authenticated:
            return self.get_response(request)
        return _unauthorized() if for_api else redirect_to_login(request.get_full_path())


def _unauthorized(message: str = "") -> HttpResponse:
    response = error_response(401, message)
    response["WWW-Authenticate"] = 'Basic realm="Distributed Workload Runner", charset="UTF-8"'
    return response


def basic_user(request: HttpRequest) -> User | None:
    """The user whose name and password came by HTTP Basic, or None."""
    scheme, _, encoded = request.headers["Authorization"].partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    if not colon or "\0" in name:
        return None
    user = authenticate(request, username=name, password=password)
    return user if isinstance(user, User) else None


def is_cross_site(request: HttpRequest) -> bool:
    """Whether a browser sent this for a page that is not ours. Scripts send neither header and are never meant."""
    origin = request.headers.get("Origin")
    if origin in settings.CSRF_TRUSTED_ORIGINS:
        return False
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return True
    return origin is not None and urlsplit(origin).netloc != request.get_host()


# --- The local user ----------------------------------------------------------------------------------------------


def refuse_open_network() -> None:
    """Raises ImproperlyConfigured where the server would be open to its local user on an address others reach."""
    if settings.OPEN_TO_LOCAL_USER and not is_loopback(settings.SCHEDULER_API_HOST):
        raise ImproperlyConfigured(
            f"OPEN_TO_LOCAL_USER lets in without a login, so SCHEDULER_API_HOST must be a loopback address such as "
            f"127.0.0.1, not {settings.SCHEDULER_API_HOST!r}. Unset one of the two."
        )


def is_local(client_address: str, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from this machine and is meant for it: by the socket's address, the Host, and no proxy.

    The Host matters because a foreign page can point a name of its own at 127.0.0.1. `headers`: lower-case or Django's.
    """
    if not settings.OPEN_TO_LOCAL_USER or any(name in headers for name in FORWARDED):
        return False
    host, _port = split_domain_port(headers.get("host", ""))
    return is_loopback(client_address) and is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address, with or without brackets, is this machine and no other can reach it."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def local_user() -> User:
    """The superuser `local`, made on first use; it has no password, so nobody can log in as it."""
    user = User.objects.filter(username=LOCAL_USER).first()
    if user is None:
        user, _created = User.objects.get_or_create(
            username=LOCAL_USER, defaults={"is_staff": True, "is_superuser": True, "password": "!"}
        )
    return user


# --- WebSockets --------------------------------------------------------------------------------------------------

Scope = MutableMapping[str, Any]
AsgiApp = Callable[[Scope, Any, Any], Awaitable[None]]


async def user_of_scope(scope: Scope) -> AbstractBaseUser | AnonymousUser:
    """Who opened a WebSocket: the local user as for pages, else the user that channels found in the session."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}
    client = scope.get("client") or ("", 0)
    user: AbstractBaseUser | AnonymousUser
    if is_local(client[0], headers):
        user = await database_sync_to_async(local_user)()
    else:
        user = scope.get("user") or AnonymousUser()
    return user


class LocalUserSockets:
    """ASGI middleware inside AuthMiddlewareStack: `scope["user"]` as `user_of_scope` says."""

    def __init__(self, inner: AsgiApp) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        await self.inner({**scope, "user": await user_of_scope(scope)}, receive, send)
