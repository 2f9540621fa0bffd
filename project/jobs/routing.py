"""The websockets of this app."""

from typing import Any

from django.urls import path

from project.jobs.consumer import JobConsumer

websocket_urlpatterns: list[Any] = [path("ws/jobs/<uuid:pk>/", JobConsumer.as_asgi())]
