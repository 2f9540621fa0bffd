"""What holds for the whole: who imports whom, what the web process loads, and that no door was left open."""

import subprocess
import sys
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from project.testing import Cast

LAYERS = ["kernel", "jobs", "datasets_app", "registry", "training", "abtests"]  # lowest first
SIBLINGS = {"datasets_app", "registry"}
HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "bitsandbytes", "pandas", "pyarrow")
PUBLIC = {
    "sign-in", "sign-in-link", "sign-out", "docs", "doc", "healthz", "readyz", "schema", "api-docs", "set_language",
}  # fmt: skip


def test_foreign_keys_point_down() -> None:
    """import-linter cannot see keys that are written as strings."""
    for model in apps.get_models():
        label = model._meta.app_label
        for field in model._meta.get_fields():
            other = getattr(field, "related_model", None)
            if field.auto_created or label not in LAYERS or not hasattr(other, "_meta"):
                continue
            target = other._meta.app_label
            if target in LAYERS and target != label:
                assert LAYERS.index(target) < LAYERS.index(label), f"{model.__name__}.{field.name} points up"
                assert {label, target} != SIBLINGS, f"{model.__name__}.{field.name} points to a sibling"


def test_the_web_process_loads_no_machine_learning() -> None:
    code = (
        "import sys, project.asgi\n"
        "from django.urls import get_resolver\n"
        "get_resolver().url_patterns\n"
        "from project.contracts.plugins import PLUGINS\n"
        "assert [kind.names() for kind in PLUGINS]\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=settings.BASE_DIR)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


def test_migrations_are_complete(db: None) -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_every_plugin_loads() -> None:
    from project.contracts.plugins import PLUGINS

    assert {"recipe", "format", "metric", "gate"} <= {kind.kind for kind in PLUGINS}
    assert [broken for kind in PLUGINS for broken in kind.broken()] == []


def _patterns(resolver: URLResolver, prefix: str = "") -> list[tuple[str, URLPattern]]:
    found = []
    for pattern in resolver.url_patterns:
        route = prefix + str(pattern.pattern)
        found += _patterns(pattern, route) if isinstance(pattern, URLResolver) else [(route, pattern)]
    return found


def _addresses() -> list[tuple[str, str]]:
    """(name, address) of every page and API call, with made-up ids."""
    import re

    found = []
    for route, pattern in _patterns(get_resolver()):
        if route.startswith(("admin/", "^api/")) or (pattern.name or "") in PUBLIC:
            continue
        address = re.sub(r"\(\?P<format>[^)]*\)|\\\.\(\?P<format>.*", "", route)
        address = re.sub(r"<int:[^>]+>", "1", address)
        address = re.sub(r"<(uuid:)[^>]+>", "00000000-0000-7000-8000-000000000000", address)
        address = re.sub(r"<[^>]+>", "x", re.sub(r"\(\?P<[^>]+>[^)]*\)", "x", address))
        found.append((pattern.name or "", "/" + re.sub(r"[\^$?\\]|/\Z", "", address).lstrip("/") + "/"))
    return found


def test_nobody_comes_in_without_signing_in(client: Client, db: None) -> None:
    addresses = _addresses()
    assert len(addresses) > 40
    for name, address in addresses:
        for method in (client.get, client.post):
            status = method(address).status_code
            assert status in (302, 401, 403, 404, 405), f"{name} {address} answers {status} to a stranger"


def test_made_up_ids_are_not_found_and_nothing_breaks(cast: Cast) -> None:
    page, api = cast.page("owner"), cast.api("owner")
    for name, address in _addresses():
        for answer in (page.get(address), api.get(address) if address.startswith("/api/") else page.get(address)):
            assert answer.status_code < 500, f"{name} {address} answers {answer.status_code}"


@pytest.mark.parametrize("part", ["project/contracts", "project/modeling", "project/runner", "training/engine"])
def test_pure_parts_never_mention_django(part: str) -> None:
    for path in (Path(settings.BASE_DIR) / part).rglob("*.py"):
        if "tests" not in path.parts:
            assert "import django" not in path.read_text() and "from django" not in path.read_text(), path
