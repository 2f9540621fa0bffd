"""The web process: `/v1/` goes to the gateway before Django sees it, `/ws/` to the consumers, the rest to Django."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.util import find_spec
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from django.core.asgi import get_asgi_application

_django = get_asgi_application()  # sets Django up; what follows needs its models

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402

from project.jobs.routing import websocket_urlpatterns  # noqa: E402

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
log = logging.getLogger(__name__)


async def _no_such_socket(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.close", "code": 4404})


def _gateway() -> Asgi | None:
    if find_spec("abtests.gateway") is None or find_spec("abtests.gateway.app") is None:
        return None
    from abtests.gateway.app import application as gateway

    app: Asgi = gateway
    return app


class Application:
    """One raw dispatch by path prefix. The gateway gets its own lifespan events; Django needs none."""

    def __init__(self, django: Asgi, sockets: Asgi, gateway: Asgi | None) -> None:
        self._django, self._sockets, self._gateway = django, sockets, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
        elif self._gateway is not None and scope["path"].startswith("/v1/"):
            await self._gateway(scope, receive, send)
        else:
            await self._django(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start and stop the gateway with the process, if it takes part in that."""
        if self._gateway is not None:
            try:
                await self._gateway(scope, receive, send)
                return
            except NotImplementedError:
                log.debug("the gateway has no lifespan")
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return


_sockets = AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter([*websocket_urlpatterns])))
application = Application(_django, ProtocolTypeRouter({"websocket": _sockets}), _gateway())
__all__ = ["Application", "application", "asyncio"]
