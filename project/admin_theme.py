"""How the admin looks: the same colours and names as the pages."""

from typing import Any

UNFOLD: dict[str, Any] = {"SITE_TITLE": "Tuneloop", "SITE_HEADER": "Tuneloop"}
