import gc

from django.apps import AppConfig

NEW_OBJECTS = 50_000


class WebappConfig(AppConfig):
    name = "webapp"

    def ready(self) -> None:
        # A batch of jobs or events makes tens of thousands of objects that are all in use. By default Python looks
        # through them for garbage after every 700; docs/decisions/0012 has what that cost.
        gc.set_threshold(NEW_OBJECTS, 20, 20)
