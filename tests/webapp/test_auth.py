"""Who is let in: the local user on this machine, people with a name and a password, and nobody else."""

import base64

import pytest
import redis
from channels.db import database_sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from pytest_django import Settings

from jobs.models import Job
from webapp.auth import is_loopback, user_of_scope
from webapp.handler import ThreadedHandler

BODY = {"docker_image": "alpine"}
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - what the server must refuse to be open on


def submit(client: Client, **headers: str) -> int:
    return client.post("/jobs", BODY, content_type="application/json", headers=headers).status_code


def basic(name: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.fixture
def ann(db: None, settings: Settings) -> User:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # slow ones show nothing more here
    return User.objects.create_user("ann", password="correct horse")


# --- The local user --------------------------------------------------------------------------------------------


def test_on_this_machine_the_local_user_needs_no_login(local_client: Client, redis_client: redis.Redis) -> None:
    assert submit(local_client) == 201
    owner = Job.objects.get().owner
    assert owner is not None
    assert (owner.username, owner.is_superuser, owner.has_usable_password()) == ("local", True, False)
    assert local_client.get("/").status_code == 200
    assert User.objects.count() == 1


def test_nobody_is_local_unless_the_setting_says_so(client: Client, db: None, settings: Settings) -> None:
    settings.OPEN_TO_LOCAL_USER = False
    assert submit(client, host="localhost") == 401


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000"])
@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_every_name_of_this_machine_is_local(local_client: Client, host: str, address: str) -> None:
    assert local_client.get("/jobs", headers={"host": host}, REMOTE_ADDR=address).status_code == 200


@pytest.mark.parametrize("address", ["192.168.1.4", "10.0.0.1", "::2", "::ffff:10.0.0.1", "", "localhost.evil.example"])
def test_who_connects_from_elsewhere_is_not_local(local_client: Client, address: str) -> None:
    assert local_client.get("/jobs", REMOTE_ADDR=address).status_code == 401


@pytest.mark.parametrize("header", ["x-forwarded-for", "x-real-ip", "forwarded", "via", "x-forwarded-host"])
def test_who_comes_through_a_proxy_is_not_local_whatever_it_says(local_client: Client, header: str) -> None:
    assert local_client.get("/jobs", headers={header: "127.0.0.1"}).status_code == 401


def test_a_foreign_name_that_points_here_is_not_local(local_client: Client, settings: Settings) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    assert local_client.get("/jobs", headers={"host": "rebound.evil.example"}).status_code == 401


@pytest.mark.parametrize("host", [ANY_ADDRESS, "192.168.1.4", "::", "runner.example.com", ""])
def test_the_server_refuses_to_start_open_on_an_address_that_others_reach(settings: Settings, host: str) -> None:
    settings.OPEN_TO_LOCAL_USER = True
    settings.SCHEDULER_API_HOST = host
    with pytest.raises(ImproperlyConfigured, match="OPEN_TO_LOCAL_USER"):
        ThreadedHandler()
    settings.OPEN_TO_LOCAL_USER = False
    ThreadedHandler()


def test_loopback_is_known_by_number_and_name() -> None:
    assert all(map(is_loopback, ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1", "[::1]"]))
    assert not any(map(is_loopback, ["", ANY_ADDRESS, "localhost.example.com", "1.2.3.4", "::", "[fe80::1]"]))


# --- Logging in ------------------------------------------------------------------------------------------------


def test_a_page_sends_who_is_unknown_to_log_in_and_back(client: Client, db: None) -> None:
    response = client.get("/jobs/?state=FAILED")
    assert response.status_code == 302
    assert response["Location"] == "/login/?next=/jobs/%3Fstate%3DFAILED"


@pytest.mark.parametrize("path", ["/jobs", "/api/v1/jobs", "/stats", "/api/v1/openapi.json", "/api/v1/nothing"])
def test_the_api_tells_who_is_unknown_so_in_json(client: Client, db: None, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "not_authenticated")
    assert response["WWW-Authenticate"].startswith("Basic")


@pytest.mark.parametrize("path", ["/health", "/api/v1/health", "/login/"])
def test_health_and_the_login_page_are_open(client: Client, redis_client: redis.Redis, db: None, path: str) -> None:
    assert client.get(path).status_code in (200, 503)


def test_a_session_serves_pages_and_api(client: Client, ann: User) -> None:
    assert client.post("/login/", {"username": "ann", "password": "correct horse"}).status_code == 302
    assert client.get("/jobs/").status_code == 200
    assert client.get("/jobs").status_code == 200


def test_a_script_sends_name_and_password(client: Client, ann: User, redis_client: redis.Redis) -> None:
    assert submit(client, **basic("ann", "correct horse")) == 201
    assert Job.objects.get().owner == ann


@pytest.mark.parametrize(
    "authorization",
    [
        basic("ann", "wrong")["authorization"],
        basic("bob", "correct horse")["authorization"],
        basic("a\0nn", "x")["authorization"],
        "Basic !!!",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        "Basic",
        "Bearer abc",
        "",
    ],
)
def test_a_wrong_password_is_refused_even_where_a_session_would_do(
    client: Client, ann: User, authorization: str
) -> None:
    client.force_login(ann)
    response = client.get("/jobs", headers={"authorization": authorization})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "not_authenticated")


# --- Other sites' pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://localhost.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_of_another_site_changes_nothing(
    local_client: Client, redis_client: redis.Redis, headers: dict[str, str]
) -> None:
    for response in (
        local_client.post("/jobs", BODY, content_type="text/plain", headers=headers),
        local_client.post("/api/v1/schedule", headers=headers),
        local_client.delete("/jobs/x", headers=headers),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (403, "cross_site")
    assert not Job.objects.exists()


def test_a_page_of_another_site_gets_nothing_through_a_session_either(client: Client, ann: User) -> None:
    client.force_login(ann)
    assert submit(client, origin="http://evil.example") == 403


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": "http://localhost", "sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}],
)
def test_our_own_pages_and_scripts_may_change_things(
    local_client: Client, redis_client: redis.Redis, headers: dict[str, str]
) -> None:
    assert submit(local_client, **headers) == 201


def test_a_trusted_origin_is_ours(local_client: Client, redis_client: redis.Redis, settings: Settings) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://jobs.example.com"]
    assert submit(local_client, origin="https://jobs.example.com", **{"sec-fetch-site": "same-site"}) == 201


def test_forms_of_pages_need_their_token(db: None, settings: Settings) -> None:
    settings.OPEN_TO_LOCAL_USER = True
    client = Client(headers={"host": "localhost"}, enforce_csrf_checks=True)
    assert client.post("/jobs/new/", {"docker_image": "alpine"}).status_code == 403


# --- WebSockets ------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
async def test_a_socket_has_the_same_user_as_a_page(settings: Settings) -> None:
    settings.OPEN_TO_LOCAL_USER = True
    local = {"client": ("127.0.0.1", 5), "headers": [(b"Host", b"localhost:8000")]}
    assert (await user_of_scope(dict(local))).get_username() == "local"
    assert (await user_of_scope({**local, "client": ("10.0.0.1", 5)})).is_anonymous
    assert (await user_of_scope({**local, "client": None})).is_anonymous
    assert (await user_of_scope({**local, "headers": [(b"host", b"evil.example")]})).is_anonymous
    ann = await database_sync_to_async(User.objects.create_user)("ann")
    assert await user_of_scope({**local, "client": ("10.0.0.1", 5), "user": ann}) == ann
    settings.OPEN_TO_LOCAL_USER = False
    assert await user_of_scope({**local, "user": AnonymousUser()}) == AnonymousUser()
