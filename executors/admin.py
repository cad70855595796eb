"""Executors in Django's admin: to look at, to search, and to close to new jobs. What agents report is not edited."""

from django.contrib import admin
from django.http import HttpRequest

from executors import broker
from executors.models import Executor


@admin.register(Executor)
class ExecutorAdmin(admin.ModelAdmin):
    list_display = ["name", "state", "schedulable", "address", "cores", "memory_gb", "gpu_count", "last_heartbeat_at"]
    list_editable = ["schedulable"]
    list_filter = ["state", "schedulable"]
    search_fields = ["name", "id", "address"]
    actions = None
    fields = [
        "schedulable",
        *(field.name for field in Executor._meta.fields if field.name != "schedulable"),
    ]

    def get_readonly_fields(self, request: HttpRequest, obj: Executor | None = None) -> list[str]:
        return [field.name for field in Executor._meta.fields if field.name != "schedulable"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """An executor comes by itself, with its agent."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Executor | None = None) -> bool:
        """Only a lost one: the agent of any other would be unknown from one moment to the next."""
        lost = obj is None or obj.state == Executor.State.LOST
        return lost and super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Executor, form: object, change: bool) -> None:
        # Only this column: the scheduler may have written the others since the form was opened.
        obj.save(update_fields=["schedulable"])
        broker.publish_changes(executors=[obj.id])

    @admin.display(ordering="cpu_millicores")
    def cores(self, executor: Executor) -> float:
        return executor.cpu_millicores / 1000

    @admin.display(description="memory, GB", ordering="memory_bytes")
    def memory_gb(self, executor: Executor) -> float:
        return round(executor.memory_bytes / 1024**3, 1)

    @admin.display(description="GPUs")
    def gpu_count(self, executor: Executor) -> int:
        return len(executor.gpus)
