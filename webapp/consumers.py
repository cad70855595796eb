"""The dashboard's socket."""

from executors.consumers import LivePage
from executors.hub import View
from webapp import views


class Dashboard(LivePage):
    def view(self) -> View:
        return View("dashboard", views.dashboard_fragments)
