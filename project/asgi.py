"""The web process: `/v1/` goes to the gateway before Django sees it, `/ws/` to the consumers, the rest to Django."""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any, cast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from django.core.asgi import get_asgi_application

_django = get_asgi_application()  # sets Django up; what follows needs its models

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import re_path  # noqa: E402

from project.jobs.routing import websocket_urlpatterns  # noqa: E402

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


async def _no_such_socket(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 4404})


def _gateway() -> Asgi | None:
    """The gateway, if this installation has one."""
    try:
        module = import_module("abtests.gateway.app")
    except ModuleNotFoundError:
        return None
    gateway: Asgi | None = getattr(module, "application", None)
    return gateway


class Application:
    """One raw dispatch by path prefix."""

    def __init__(self, django: Asgi, sockets: Asgi, gateway: Asgi | None) -> None:
        self._django, self._sockets, self._gateway = django, sockets, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
        elif self._gateway is not None and scope["path"].startswith("/v1/"):
            await self._gateway(scope, receive, send)
        else:
            await self._django(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Django needs no lifespan events; the gateway closes its connections at the end, if it has any."""
        while True:
            message = await receive()
            ending = message["type"] == "lifespan.shutdown"
            close = getattr(self._gateway, "close", None)
            if ending and close is not None:
                await close()
            await send({"type": f"{message['type']}.complete"})
            if ending:
                return


_sockets = AllowedHostsOriginValidator(
    AuthMiddlewareStack(URLRouter([*websocket_urlpatterns, re_path("", cast(Any, _no_such_socket))]))
)
application = Application(cast(Asgi, _django), ProtocolTypeRouter({"websocket": _sockets}), _gateway())
