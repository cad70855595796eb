"""Where daphne comes in: HTTP to Django, WebSockets to the live pages."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
django.setup(set_prefix=False)

# Only now, with the apps loaded, can what uses their models be imported.
from channels.routing import ProtocolTypeRouter  # noqa: E402

from webapp.handler import ThreadedHandler  # noqa: E402
from webapp.sockets import websocket_application  # noqa: E402
from webapp.static_files import StaticFiles  # noqa: E402

application = ProtocolTypeRouter({"http": StaticFiles(ThreadedHandler()), "websocket": websocket_application})
