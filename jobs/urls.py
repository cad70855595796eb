from django.urls import path

from jobs import log_views, views

app_name = "jobs"
urlpatterns = [
    path("", views.job_list, name="list"),
    path("new/", views.new, name="new"),
    path("<uuid:job_id>/", views.job_detail, name="detail"),
    path("<uuid:job_id>/abort/", views.abort, name="abort"),
    path("<uuid:job_id>/log/", log_views.log_lines, name="log_lines"),
    path("<uuid:job_id>/log/search/", log_views.log_search, name="log_search"),
    path("<uuid:job_id>/log/spans/", log_views.log_spans, name="log_spans"),
    path("<uuid:job_id>/log/download/", log_views.log_download, name="log_download"),
]
