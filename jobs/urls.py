from django.urls import path

from jobs import list_views, log_views, submit_views, views

app_name = "jobs"
urlpatterns = [
    path("", list_views.job_list, name="list"),
    path("bulk/preview/", list_views.preview_bulk, name="preview_bulk"),
    path("bulk/", list_views.change_jobs, name="bulk"),
    path("palette/", list_views.palette, name="palette"),
    path("views/", list_views.save_view, name="save_view"),
    path("views/<int:view_id>/delete/", list_views.delete_view, name="delete_view"),
    path("new/", submit_views.new, name="new"),
    path("new/preview/", submit_views.preview, name="preview"),
    path("<uuid:job_id>/", views.job_detail, name="detail"),
    path("<uuid:job_id>/abort/", views.abort, name="abort"),
    path("<uuid:job_id>/usage/", views.usage, name="usage"),
    path("<uuid:job_id>/retry/", views.retry, name="retry"),
    path("<uuid:job_id>/log/", log_views.log_lines, name="log_lines"),
    path("<uuid:job_id>/log/search/", log_views.log_search, name="log_search"),
    path("<uuid:job_id>/log/spans/", log_views.log_spans, name="log_spans"),
    path("<uuid:job_id>/log/download/", log_views.log_download, name="log_download"),
]
