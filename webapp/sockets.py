"""The addresses of the WebSockets, one a page. Only pages of this site may open them, as the user who is logged in."""

from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import path, re_path

from executors.consumers import ExecutorDetail, ExecutorJoin, ExecutorList, NoSuchPage
from jobs.consumers import JobDetail, JobList
from webapp.auth import LocalUserSockets
from webapp.consumers import Dashboard

urlpatterns = [
    path("ws/dashboard", Dashboard.as_asgi()),
    path("ws/jobs", JobList.as_asgi()),
    path("ws/jobs/<uuid:job_id>", JobDetail.as_asgi()),
    path("ws/executors", ExecutorList.as_asgi()),
    path("ws/executors/join", ExecutorJoin.as_asgi()),
    path("ws/executors/<str:executor_id>", ExecutorDetail.as_asgi()),
    re_path("", NoSuchPage.as_asgi()),
]

websocket_application = AllowedHostsOriginValidator(AuthMiddlewareStack(LocalUserSockets(URLRouter(urlpatterns))))
