from django.urls import path, re_path

from executors import views

app_name = "executors"
urlpatterns = [
    path("", views.executor_list, name="list"),
    path("join/", views.join, name="join"),
    path("join/agent.tar.gz", views.agent_bundle, name="agent_bundle"),
    path("<str:executor_id>/", views.executor_detail, name="detail"),
    path("<str:executor_id>/history/", views.executor_history, name="history"),
    path("<str:executor_id>/forget/", views.forget, name="forget"),
    path("<str:executor_id>/labels/", views.set_labels, name="labels"),
    re_path(r"^(?P<executor_id>[^/]+)/(?P<action>cordon|drain|resume)/$", views.act, name="act"),
]
