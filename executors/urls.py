from django.urls import path

from executors import views

app_name = "executors"
urlpatterns = [
    path("", views.executor_list, name="list"),
    path("<str:executor_id>/", views.executor_detail, name="detail"),
]
