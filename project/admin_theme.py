"""How the admin looks: the same colours and words as the pages, and a sidebar ordered by what operators do."""

from collections.abc import Callable, Mapping
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse

# Group -> (app.model, words, icon). A model that no app registered is left out; one that is not named here comes last.
_SIDEBAR: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "Work": (
        ("jobs.job", "Jobs", "play_circle"),
        ("training.finetune", "Fine-tunes", "tune"),
        ("training.evaluation", "Evaluations", "fact_check"),
        ("jobs.jobattempt", "Attempts", "replay"),
        ("jobs.deviceslot", "Device slots", "memory"),
    ),
    "Models": (
        ("registry.registeredmodel", "Models", "deployed_code"),
        ("registry.modelversion", "Versions", "layers"),
        ("registry.score", "Scores", "leaderboard"),
        ("registry.deployment", "Deployments", "cloud_upload"),
        ("registry.engine", "Engines", "dns"),
        ("registry.route", "Routes", "alt_route"),
        ("registry.target", "Targets", "lan"),
    ),
    "Data": (
        ("datasets_app.dataset", "Data sets", "database"),
        ("datasets_app.datasetversion", "Data versions", "difference"),
        ("kernel.artifact", "Artifacts", "inventory_2"),
    ),
    "Answers": (
        ("abtests.answer", "Answers", "forum"),
        ("abtests.feedback", "Feedback", "thumbs_up_down"),
        ("abtests.abtest", "A/B tests", "call_split"),
    ),
    "People": (
        ("kernel.user", "People", "person"),
        ("kernel.workspace", "Workspaces", "workspaces"),
        ("kernel.membership", "Members", "group"),
        ("kernel.apitoken", "API tokens", "key"),
    ),
    "Audit": (
        ("kernel.auditentry", "Audit", "verified_user"),
        ("registry.stagechange", "Stage changes", "swap_horiz"),
        ("kernel.edge", "Lineage", "account_tree"),
        ("admin.logentry", "Admin log", "history"),
    ),
}


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """The groups of the sidebar with the models this person may see."""
    from django.contrib import admin

    registered = {model._meta.label_lower: (model, view) for model, view in admin.site._registry.items()}
    groups: list[dict[str, Any]] = []
    for title, entries in _SIDEBAR.items():
        items = []
        for label, words, icon in entries:
            if label in registered:
                items.append(_item(request, *registered.pop(label), words, icon))
        groups.append({"title": title, "separator": bool(groups), "items": [item for item in items if item]})
    rest = [
        _item(request, *entry, str(entry[0]._meta.verbose_name_plural).capitalize(), "more_horiz")
        for entry in registered.values()
    ]
    groups.append({"title": "More", "separator": True, "items": [item for item in rest if item]})
    return [group for group in groups if group["items"]]


def _item(request: HttpRequest, model: Any, view: Any, words: str, icon: str) -> dict[str, Any] | None:
    if not view.has_view_permission(request):
        return None
    return {
        "title": words,
        "icon": icon,
        "link": reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"),
    }


def _file(path: str) -> Callable[[HttpRequest], str]:
    """A static file's address, looked up when it is needed: settings are not ready yet."""
    return lambda request: static(path)


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Tuneloop admin",
    "SITE_HEADER": "Tuneloop",
    "SITE_SUBHEADER": "Admin",
    "SITE_URL": "/",
    "SITE_ICON": {"light": _file("img/mark-light.svg"), "dark": _file("img/mark-dark.svg")},
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _file("favicon.svg")}],
    "SITE_DROPDOWN": [
        {"icon": "arrow_back", "title": "Back to Tuneloop", "link": "/"},
        {"icon": "menu_book", "title": "Documentation", "link": "/docs/"},
        {"icon": "code", "title": "API reference", "link": "/api/docs/"},
    ],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": True,
    "SHOW_BACK_BUTTON": True,
    "BORDER_RADIUS": "8px",
    "STYLES": [_file("css/admin.css")],
    "COLORS": {
        "base": {
            "50": "oklch(98.2% .002 210)",
            "100": "oklch(96.4% .003 215)",
            "200": "oklch(92% .007 220)",
            "300": "oklch(84.5% .011 225)",
            "400": "oklch(67% .018 228)",
            "500": "oklch(52.5% .021 230)",
            "600": "oklch(43.5% .021 230)",
            "700": "oklch(34.5% .019 230)",
            "800": "oklch(27.5% .016 230)",
            "900": "oklch(20.2% .011 235)",
            "950": "oklch(16.8% .009 235)",
        },
        "primary": {
            "50": "oklch(97% .014 214)",
            "100": "oklch(94.2% .024 214)",
            "200": "oklch(88.5% .048 214)",
            "300": "oklch(81.5% .08 214)",
            "400": "oklch(75% .1 215)",
            "500": "oklch(68% .105 216)",
            "600": "oklch(48.6% .088 222)",
            "700": "oklch(42.5% .078 223)",
            "800": "oklch(37% .066 223)",
            "900": "oklch(31% .054 223)",
            "950": "oklch(24.5% .042 223)",
        },
    },
    "COMMAND": {"search_models": True, "show_history": True},
    "SIDEBAR": {
        "show_search": True,
        "command_search": True,
        "show_all_applications": False,
        "navigation": sidebar,
    },
}
