"""Pages end in a slash; the API and the seed's paths do not."""

from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.urls import include, path

from webapp import views

urlpatterns = [
    path("", views.dashboard, name="dashboard"),
    path("jobs/", include("jobs.urls")),
    path("executors/", include("executors.urls")),
    path("login/", auth_views.LoginView.as_view(), name="login"),
    path("logout/", auth_views.LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
]
