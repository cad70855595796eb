"""Where daphne comes in: HTTP to Django, WebSockets to the live pages."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
django_application = get_asgi_application()

# Only now, with the apps loaded, can what uses their models be imported.
from channels.routing import ProtocolTypeRouter  # noqa: E402

from webapp.sockets import websocket_application  # noqa: E402

application = ProtocolTypeRouter({"http": django_application, "websocket": websocket_application})
