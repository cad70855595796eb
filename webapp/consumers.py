"""The dashboard's socket."""

from executors.consumers import LivePage
from executors.hub import View
from webapp import views


class Dashboard(LivePage):
    def views(self) -> list[View]:
        return [
            View("dashboard", views.work_fragments),
            View("dashboard-cluster", views.cluster_fragments, lambda change: bool(change.executors), rest_seconds=1),
            View("dashboard-attention", views.attention_fragments, rest_seconds=4),
        ]
