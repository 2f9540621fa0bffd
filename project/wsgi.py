"""For servers that speak WSGI only: pages and REST, no `/v1/` and no websockets. `manage.py start` uses asgi."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
application = get_wsgi_application()
