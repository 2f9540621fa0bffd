"""What the OpenAPI document says about signing in."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[misc,no-untyped-call]
    target_class = "project.kernel.api.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": "A token of Tuneloop: `Authorization: Bearer tl-…`."}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[misc,no-untyped-call]
    target_class = "project.kernel.api.authentication.PageSessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        words = "The session of a signed-in person; changes also need the header X-CSRFToken."
        return {"type": "apiKey", "in": "cookie", "name": "sessionid", "description": words}
