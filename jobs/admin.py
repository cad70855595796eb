"""Jobs in Django's admin: to look at, to search, and to abort. A state is only ever written by its transitions."""

from typing import Any

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString

from executors.templatetags.display import short_id
from jobs import services
from jobs.lifecycle import EndReason
from jobs.listing import COUNT_LIMIT, as_job_id
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
    template = "admin/rows.html"
    extra = 0
    fields = ["number", "state", "executor_name", "gpu_indices", "placed_at", "started_at", "finished_at", "exit_code"]
    ordering = ["-number"]


class BoundedPaginator(Paginator):
    """Leads through the newest COUNT_LIMIT jobs that match: to count a million takes as long as to read them."""

    @cached_property
    def count(self) -> int:
        jobs: QuerySet[Job] = self.object_list  # type: ignore[assignment]
        return jobs[:COUNT_LIMIT].count()


LOOKED_THROUGH = 20_000
"""Jobs in which a reason or words are looked for at most: no index has them."""


def newest(jobs: QuerySet[Job]) -> QuerySet[Job]:
    """Those of the newest LOOKED_THROUGH jobs of all."""
    ids = Job.objects.order_by("-id").values_list("id", flat=True)
    oldest = ids[LOOKED_THROUGH - 1 : LOOKED_THROUGH].first()
    return jobs.filter(id__gte=oldest) if oldest else jobs


class ReasonFilter(admin.SimpleListFilter):
    """The reasons there can be; those there are would have to be looked for in all jobs."""

    title, parameter_name = f"reason (of the newest {LOOKED_THROUGH:,} jobs)", "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(reason.value, reason.value.replace("_", " ")) for reason in EndReason]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return newest(queryset).filter(reason=self.value()) if self.value() else queryset


@admin.register(Job)
class JobAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ["short", "name", "image", "state", "reason", "executor", "owner", "submitted_at"]
    list_filter = ["state", ReasonFilter]
    list_select_related = ["executor", "owner"]
    list_per_page = 50
    sortable_by = ["short"]
    search_fields = ["name", "image", "=executor__name"]
    search_help_text = f"Name, image or executor of the newest {LOOKED_THROUGH:,} jobs, or the whole id of any."
    show_full_result_count = False
    paginator = BoundedPaginator
    fields = [
        *(field.name for field in Job._meta.fields if field.name not in ("env", "shape")),
        "environment",
    ]
    readonly_fields = ["environment"]
    inlines = [AttemptInline]
    actions = ["abort"]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        if job_id := as_job_id(search_term.strip()):
            return queryset.filter(id=job_id), False
        return super().get_search_results(request, newest(queryset) if search_term else queryset, search_term)

    @admin.display(description="id", ordering="id")
    def short(self, job: Job) -> SafeString:
        return format_html('<code title="{}">{}</code>', job.id, short_id(job.id))

    @admin.display(description="env")
    def environment(self, job: Job) -> str:
        return "\n".join(f"{name}={value}" for name, value in masked(job.env).items())

    @admin.action(description="Abort the selected jobs")
    def abort(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        asked, ended = 0, 0
        for job_id in jobs.values_list("id", flat=True):
            try:
                services.abort(job_id)
                asked += 1
            except (services.JobIsFinal, services.JobNotFound):
                ended += 1
        self.message_user(request, f"{asked} asked to abort; {ended} had ended already.", messages.INFO)
