"""The one shape of every error that the API answers, whoever notices it: Django, ninja or our own code.

    {"error": {"code": "invalid", "message": "…", "fields": {"cpu_cores": ["…"]}}}

`code` is for programs and never changes; `message` and the sentences of `fields` are for people.
"""

import logging
import sys
from collections.abc import Callable, Mapping

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

API_PREFIX = "/api/"
SEED_PATHS = ("/jobs", "/executors", "/stats", "/schedule", "/health")
"""The seed's own paths, aliases of those under /api/v1; pages have the same names with a slash at the end."""

MESSAGES = {
    400: ("bad_request", "The request cannot be understood, or its Host header is not one of ALLOWED_HOSTS."),
    401: ("not_authenticated", "Log in, or send a name and password by HTTP Basic."),
    403: ("forbidden", "This is not allowed."),
    404: ("not_found", "There is nothing at this address; /api/v1/docs lists what there is."),
    405: ("method_not_allowed", "This address does not take this method."),
    413: ("too_large", "A request may be 1 MB at most."),
    500: ("internal_error", "Something went wrong on the server; its log says what."),
    503: ("database_unavailable", "The database does not answer; try again shortly. /health says more."),
}


def server_error(request: HttpRequest) -> HttpResponse:
    """The page for what crashed: 503 where the database was away. Neither needs the database."""
    away = isinstance(sys.exc_info()[1], OperationalError | InterfaceError)
    status = 503 if away else 500
    response = render(None, f"{status}.html", status=status)  # without the request: no user is looked up
    if away:
        response["Retry-After"] = "5"
    return response


class HealthIsAnAnswer(logging.Filter):
    """That /health says 503 is what it is asked for, every few seconds; it is no error of the server's."""

    def filter(self, record: logging.LogRecord) -> bool:
        request = getattr(record, "request", None)
        return not (record.name == "django.request" and isinstance(request, HttpRequest) and request.path == "/health")


class AwayInOneLine(logging.Filter):
    """A request that failed because the database was away needs no traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if record.name == "django.request" and isinstance(error, OperationalError | InterfaceError):
            record.msg, record.args = f"{record.getMessage()}: the database: {str(error).strip().splitlines()[0]}", ()
            record.exc_info = record.exc_text = None
        return True


class ApiErrorsMiddleware:
    """Gives the errors that others answer for API paths (no such address, wrong method, a crash) the API's shape.

    Outermost, so that it sees them all.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if response.status_code < 400 or not is_api_path(request.path) or isinstance(response, JsonResponse):
            return response
        if response.get("Content-Type", "").startswith("application/json"):
            return response
        shaped = error_response(response.status_code)
        for name, value in response.items():
            if not name.startswith("Content-") or name == "Content-Security-Policy":
                shaped[name] = value
        return shaped


def error_response(
    status: int, message: str = "", code: str = "", fields: Mapping[str, list[str]] | None = None
) -> JsonResponse:
    """An error as JSON; code and message are the usual ones of the status where none are given."""
    usual_code, usual_message = MESSAGES.get(status, MESSAGES[400])
    error = {"code": code or usual_code, "message": message or usual_message, "fields": fields or {}}
    return JsonResponse({"error": error}, status=status, json_dumps_params={"ensure_ascii": False})


def is_api_path(path: str) -> bool:
    """Whether a path belongs to the API, under /api/ or as one of the seed's; pages end in a slash."""
    if path.startswith(API_PREFIX):
        return True
    return not path.endswith("/") and any(path == seed or path.startswith(f"{seed}/") for seed in SEED_PATHS)


def prefers_html(request: HttpRequest) -> bool:
    """Whether this is a browser that navigates, rather than a script: it asks for HTML before JSON."""
    return request.get_preferred_type(["application/json", "text/html"]) == "text/html"
