"""What pages are built from: every component renders, says the same everywhere, and can be read by everybody."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.conf import settings
from django.template import Context, Template
from django.test import Client, RequestFactory

from project.kernel.gallery import gallery
from project.kernel.templatetags import tuneloop

ROOT = Path(settings.BASE_DIR)
CSS = (ROOT / "static/css/tuneloop.css").read_text()
ICONS = set(re.findall(r'<symbol id="([a-z-]+)"', (ROOT / "static/icons.svg").read_text()))
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))


@pytest.fixture
def page(cast, rf: RequestFactory) -> str:
    """The gallery, as the owner sees it."""
    request = rf.get("/gallery/")
    request.user = cast.owner
    request.session = {}
    return gallery(request).content.decode()


def test_the_gallery_shows_every_component(page: str) -> None:
    used = set(re.findall(r'class="([^"]+)"', page))
    words = {word for group in used for word in group.split()}
    assert {
        "badge",
        "stat",
        "meter",
        "interval",
        "delta",
        "spark",
        "split",
        "stars",
        "copyable",
        "tab",
        "empty",
    } <= words
    assert {"progress", "pagination", "field", "rating", "thumbs", "alert", "code", "menu", "confirm", "chart"} <= words
    assert "Ensure this value is greater than or equal to 1." in page


class _Strict(HTMLParser):
    """Collects what a strict content security policy would refuse, and ids used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []
        self.ids: list[str] = []
        self.pointers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "script" and "src" not in given:
            self.refused.append("inline script")
        for name, value in attrs:
            if name.startswith("on") or (value or "").startswith("javascript:"):
                self.refused.append(f"{tag} {name}")
            if name == "id":
                self.ids.append(value or "")
            if name in ("aria-labelledby", "aria-describedby", "for"):
                self.pointers += (value or "").split()


def test_nothing_needs_inline_scripts_and_labels_point_at_something(page: str) -> None:
    parser = _Strict()
    parser.feed(page)
    assert parser.refused == []
    assert len(parser.ids) == len(set(parser.ids)), "an id is used twice"
    assert set(parser.pointers) <= set(parser.ids)


def test_every_icon_that_is_used_is_drawn() -> None:
    used = {"feedback"}
    for template in TEMPLATES:
        used |= set(re.findall(r'{% icon "([^"]+)"', template.read_text()))
    used |= {icon for _, icon, _ in tuneloop.STATES.values()} | {icon for _, _, icon, _ in tuneloop._SECTIONS}
    assert used <= ICONS, used - ICONS


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("0|filesize", "0 B"),
        ("1536|filesize", "1.5 kB"),
        ("269000000|filesize", "269 MB"),
        ("nothing|filesize", "–"),
        ("0|duration", "0 s"),
        ("0.042|duration", "42 ms"),
        ("5.04|duration", "5 s"),
        ("123|duration", "2 min 3 s"),
        ("59.9|duration", "1 min"),
        ("7380|duration", "2 h 3 min"),
        ("span|duration", "1 d 1 h"),
        ("nothing|duration", "–"),
        ("1234567|number", "1\u202f234\u202f567"),
        ("1.28437|number", "1.284"),
        ("0.0002|number", "0.0002"),
        ("0.00001234|number", "1.23e-5"),
        ("minus|number", "−12"),
        ("word|number", "–"),
        ("0|number", "0"),
        ("9999|compact", "9\u202f999"),
        ("134515008|compact", "134.5 M"),
        ("0.8531|percent", "85.3%"),
        ("1|percent:0", "100%"),
        ("nothing|percent", "–"),
        ("name|initials", "AS"),
    ],
)
def test_numbers_read_well(expression: str, shown: str) -> None:
    values = {"nothing": None, "word": "many", "minus": -12, "span": timedelta(hours=25), "name": "Acme Support"}
    assert Template("{% load tuneloop %}{{ " + expression + " }}").render(Context(values)) == shown


def test_a_moment_is_told_in_utc_until_the_browser_knows_better() -> None:
    moment = datetime(2026, 11, 21, 9, 5, tzinfo=UTC)
    shown = "21 Nov 2026, 09:05 UTC"
    tag = f'<time datetime="2026-11-21T09:05:00+00:00" data-time="ago" title="{shown}">{shown}</time>'
    assert tuneloop.ago(moment) == tag
    assert tuneloop.ago(None) == "–"


def test_what_people_wrote_is_escaped_everywhere() -> None:
    source = (
        "{% load tuneloop %}{% badge evil %}{% stat evil evil hint=evil %}{% copyable evil %}{% crumb evil evil %}"
        "{% empty 'data' evil evil evil evil %}{% tab evil evil %}{% alert 'info' title=evil %}{{ evil }}{% endalert %}"
        "{% codeblock title=evil %}{{ evil }}{% endcodeblock %}{% bubble 'user' evil %}{{ evil }}{% endbubble %}"
        "{% progress 1 2 evil evil %}{% chart evil evil title=evil labels=evil %}"
        "{% confirm evil evil title=evil %}{{ evil }}{% endconfirm %}"
    )
    shown = Template(source).render(Context({"evil": "<script>alert(1)</script>\"'"}))
    assert "<script" not in shown
    assert '"\'"' not in shown


@pytest.mark.parametrize(("step", "total", "expected"), [(0, 0, None), (5, 10, "0.50000"), (12, 10, "1.00000")])
def test_progress_never_claims_more_than_it_knows(step: int, total: int, expected: str | None) -> None:
    shown = str(tuneloop.progress(step, total, "step", "Training", 12))
    value = re.search(r'value="([^"]+)"', shown)
    assert (value.group(1) if value else None) == expected


def test_a_visitor_sees_the_documentation_with_a_way_to_sign_in(db: None) -> None:
    response = Client().get("/docs/")
    assert response.status_code == 200
    assert "/sign-in/" in response.content.decode()
    assert "Sign out" not in response.content.decode()


# ------------------------------------------------------------------ colours (WCAG 2.2, relative luminance)


def _tokens(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z0-9-]+):\s*(#[0-9a-f]{6})", block))


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


_LIGHT = _tokens(CSS.split(":root {", 1)[1].split("}", 1)[0])
_BY_HAND = _tokens(CSS.split(':root[data-theme="dark"] {', 1)[1].split("}", 1)[0])
_BY_SYSTEM = _tokens(CSS.split(':root:not([data-theme="light"]) {', 1)[1].split("}", 1)[0])


def test_dark_by_hand_and_dark_by_system_are_the_same() -> None:
    assert _BY_HAND == _BY_SYSTEM
    assert set(_BY_HAND) == set(_LIGHT)


@pytest.mark.parametrize("theme", [_LIGHT, _BY_HAND], ids=["light", "dark"])
def test_text_can_be_read(theme: dict[str, str]) -> None:
    pairs = [
        (text, ground) for text in ("text", "text-2", "text-3") for ground in ("canvas", "surface", "sunken", "hover")
    ]
    pairs += [("text", soft) for soft in ("accent-soft", "ok-soft", "warn-soft", "bad-soft")]
    pairs += [
        ("accent-text", "surface"),
        ("accent-text", "canvas"),
        ("accent-text", "accent-soft"),
        ("on-accent", "accent"),
    ]
    pairs += [(tone, ground) for tone in ("ok", "warn", "bad") for ground in ("surface", "canvas", f"{tone}-soft")]
    pairs += [("on-accent", "accent-hover"), ("surface", "bad"), ("surface", "bad-hover")]
    weak = {pair: round(_contrast(theme[pair[0]], theme[pair[1]]), 2) for pair in pairs}
    assert not {pair: ratio for pair, ratio in weak.items() if ratio < 4.5}
    edges = [("field-border", "surface"), ("chart-1", "surface"), ("chart-2", "surface"), ("star", "surface")]
    faint = {pair: round(_contrast(theme[pair[0]], theme[pair[1]]), 2) for pair in edges}
    assert not {pair: ratio for pair, ratio in faint.items() if ratio < 3}
