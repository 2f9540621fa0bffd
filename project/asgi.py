"""The web process: `/v1/` goes to the gateway before Django sees it, `/ws/` to the consumers, the rest to Django."""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from django.core.asgi import get_asgi_application

_django = get_asgi_application()  # sets Django up; what follows needs its models

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import re_path  # noqa: E402

from abtests.gateway.app import Gateway  # noqa: E402
from abtests.gateway.app import application as gateway  # noqa: E402
from project.jobs.routing import websocket_urlpatterns  # noqa: E402
from project.kernel.body_limit import BodyLimit  # noqa: E402
from project.kernel.processes import settle  # noqa: E402

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


async def _no_such_socket(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 4404})


class Application:
    """One raw dispatch by path prefix."""

    def __init__(self, django: Asgi, sockets: Asgi, gateway: Gateway) -> None:
        self._django, self._sockets, self._gateway = django, sockets, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
        elif scope["path"].startswith("/v1/"):
            await self._gateway(scope, receive, send)
        else:
            await self._django(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Django needs no lifespan events; the gateway writes its last rows before the process ends."""
        while True:
            message = await receive()
            ending = message["type"] == "lifespan.shutdown"
            if ending:
                await self._gateway.close()
            else:
                settle()
            await send({"type": f"{message['type']}.complete"})
            if ending:
                return


_sockets = AllowedHostsOriginValidator(
    AuthMiddlewareStack(URLRouter([*websocket_urlpatterns, re_path("", cast(Any, _no_such_socket))]))
)
application = Application(BodyLimit(cast(Asgi, _django)), ProtocolTypeRouter({"websocket": _sockets}), gateway)
