from django.urls import path

from jobs import views

app_name = "jobs"
urlpatterns = [
    path("", views.job_list, name="list"),
    path("new/", views.new, name="new"),
    path("<uuid:job_id>/", views.job_detail, name="detail"),
    path("<uuid:job_id>/abort/", views.abort, name="abort"),
    path("<uuid:job_id>/log/", views.log_lines, name="log_lines"),
    path("<uuid:job_id>/log/download/", views.log_download, name="log_download"),
]
