"""Jobs in Django's admin: to look at, to search, and to abort. A state is only ever written by its transitions."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from jobs import services
from jobs.masking import masked
from jobs.models import Attempt, Job


class ReadOnly:
    """Nobody adds, changes or deletes a row here."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class AttemptInline(ReadOnly, admin.TabularInline):
    model = Attempt
    extra = 0
    fields = ["number", "state", "executor_name", "gpu_indices", "placed_at", "started_at", "finished_at", "exit_code"]
    ordering = ["-number"]


@admin.register(Job)
class JobAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ["id", "name", "image", "state", "reason", "executor", "owner", "submitted_at", "finished_at"]
    list_filter = ["state", "reason", "executor"]
    list_select_related = ["executor", "owner"]
    search_fields = ["=id", "name", "image"]
    show_full_result_count = False
    fields = [
        *(field.name for field in Job._meta.fields if field.name not in ("env", "shape")),
        "environment",
    ]
    readonly_fields = ["environment"]
    inlines = [AttemptInline]
    actions = ["abort"]

    @admin.display(description="env")
    def environment(self, job: Job) -> str:
        return "\n".join(f"{name}={value}" for name, value in masked(job.env).items())

    @admin.action(description="Abort the selected jobs")
    def abort(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        asked, ended = 0, 0
        for job_id in jobs.values_list("id", flat=True):
            try:
                services.abort(job_id, request.user.get_username())
                asked += 1
            except (services.JobIsFinal, services.JobNotFound):
                ended += 1
        self.message_user(request, f"{asked} asked to abort; {ended} had ended already.", messages.INFO)
