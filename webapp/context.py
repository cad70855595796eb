"""What every page is told besides its own."""

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from executors import broker


def redis_away(request: HttpRequest) -> dict[str, object]:
    """`redis_away`: whether Redis does not answer; asked only by a template that shows it."""
    return {"redis_away": SimpleLazyObject(broker.is_away)}
