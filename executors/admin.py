"""Executors in Django's admin: to look at, to search, and what operators do. What agents report is not edited."""

from collections.abc import Callable

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from executors import services
from executors.models import Executor, ExecutorEvent


class EventInline(admin.TabularInline):
    """The newest events; written where they happen, never here."""

    model = ExecutorEvent
    template = "admin/rows.html"
    fields = ["at", "kind", "text", "by"]
    readonly_fields = ["at", "kind", "text", "by"]
    extra = 0
    ordering = ["-id"]
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


@admin.register(Executor)
class ExecutorAdmin(admin.ModelAdmin):
    list_display = ["name", "state", "schedulable", "address", "cores", "memory_gb", "gpu_count", "last_heartbeat_at"]
    list_filter = ["state", "schedulable"]
    search_fields = ["name", "id", "address"]
    actions = ["cordon", "drain", "resume", "forget"]
    readonly_fields = [field.name for field in Executor._meta.fields]
    inlines = [EventInline]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """An executor comes by itself, with its agent."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Executor | None = None) -> bool:
        """By the action 'forget' alone, which refuses while jobs run there and tidies up Redis."""
        return False

    @admin.action(description="Cordon: place nothing new", permissions=["change"])
    def cordon(self, request: HttpRequest, executors: QuerySet[Executor]) -> None:
        self._do(request, executors, services.cordon, "cordoned")

    @admin.action(description="Drain: cordon, and wait for jobs to end", permissions=["change"])
    def drain(self, request: HttpRequest, executors: QuerySet[Executor]) -> None:
        self._do(request, executors, services.drain, "draining")

    @admin.action(description="Resume: take jobs again", permissions=["change"])
    def resume(self, request: HttpRequest, executors: QuerySet[Executor]) -> None:
        self._do(request, executors, services.resume, "resumed")

    @admin.action(description="Forget: remove what is gone", permissions=["change"])
    def forget(self, request: HttpRequest, executors: QuerySet[Executor]) -> None:
        self._do(request, executors, lambda executor_id, by: services.forget(executor_id), "forgotten")

    def _do(
        self, request: HttpRequest, executors: QuerySet[Executor], act: Callable[[str, str], object], done: str
    ) -> None:
        count = 0
        for executor_id in list(executors.values_list("id", flat=True)):
            try:
                act(executor_id, request.user.get_username())
                count += 1
            except (services.ExecutorNotFound, services.ExecutorInUse) as error:
                self.message_user(request, str(error), messages.ERROR)
        if count:
            self.message_user(request, f"{count} {done}.")

    @admin.display(ordering="cpu_millicores")
    def cores(self, executor: Executor) -> float:
        return executor.cpu_millicores / 1000

    @admin.display(description="memory, GB", ordering="memory_bytes")
    def memory_gb(self, executor: Executor) -> float:
        return round(executor.memory_bytes / 1024**3, 1)

    @admin.display(description="GPUs")
    def gpu_count(self, executor: Executor) -> int:
        return len(executor.gpus)
