"""Hints to open pages that something changed. The database is the truth: a lost hint costs a moment, never a fact."""

import logging
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

log = logging.getLogger(__name__)


def publish(group: str, **payload: Any) -> None:
    """Tell `group` (letters, digits, '-', '.', '_') after the transaction commits. Never raises."""
    transaction.on_commit(lambda: _send(group, payload))


def _send(group: str, payload: dict[str, Any]) -> None:
    layer = get_channel_layer()
    if layer is None or not getattr(layer, "groups", {group: True}).get(group):
        return  # the in-memory layer reaches this process only, and nobody here listens
    try:
        async_to_sync(layer.group_send)(group, {"type": "hint", **payload})
    except Exception:  # the layer is a convenience: pages poll the database without it
        log.warning("could not publish to %s", group, exc_info=True)
