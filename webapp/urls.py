"""Pages end in a slash; the API and the seed's paths do not."""

import functools
from collections.abc import Callable

from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, include, path
from django.utils.cache import patch_vary_headers

from webapp import views
from webapp.api import api
from webapp.errors import prefers_html

SEED_PAGES = {
    "jobs": "/jobs/",
    "jobs/<job_id>": "/jobs/{job_id}/",
    "executors": "/executors/",
    "stats": "/",
    "schedule": None,
    "health": None,
}
"""The seed's paths, aliases of those under /api/v1/, and the page that a browser which asks for HTML is sent to."""


def seed_alias(pattern: URLPattern, page: str | None) -> URLPattern:
    """The API's view at the seed's own path."""
    view: Callable[..., HttpResponse] = pattern.callback

    @functools.wraps(view)
    def alias(request: HttpRequest, **kwargs: str) -> HttpResponse:
        if page and request.method == "GET" and prefers_html(request):
            response: HttpResponse = HttpResponseRedirect(page.format(**kwargs))
        else:
            response = view(request, **kwargs)
        if page:
            patch_vary_headers(response, ["Accept"])
        return response

    return path(str(pattern.pattern), alias)


handler500 = "webapp.errors.server_error"

urlpatterns = [
    path("", views.dashboard, name="dashboard"),
    path("history", views.cluster_history, name="history"),
    path("jobs/", include("jobs.urls")),
    path("executors/", include("executors.urls")),
    path("login/", auth_views.LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("logout/", auth_views.LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("api/v1/", api.urls),
    *(
        seed_alias(item, SEED_PAGES[str(item.pattern)])
        for item in api.urls[0]
        if isinstance(item, URLPattern) and str(item.pattern) in SEED_PAGES
    ),
]
