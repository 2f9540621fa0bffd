"""What templates are made of: `{% load tuneloop %}`. Every component's markup lies in templates/components/."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from urllib.parse import urlencode

from django import forms, template
from django.core.paginator import Page
from django.forms import BoundField
from django.template.context import Context
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

register = template.Library()

NOTHING = "–"
_THIN = "\u202f"  # narrow no-break space: groups digits in every language without being a point or a comma
_serial = count(1)


def _render(component: str, /, **context: Any) -> SafeString:
    return render_to_string(f"components/{component}.html", context)


def _number(value: Any) -> float | None:
    """A finite number, or None for everything that is not one."""
    if value is None or isinstance(value, bool) or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


# ------------------------------------------------------------------ filters


@register.filter
def filesize(value: Any) -> str:
    """Bytes as people read them: 1536 -> '1.5 kB' (powers of 1000, as disks and networks count)."""
    size = _number(value)
    if size is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":
            digits = 0 if unit == "B" or abs(size) >= 99.95 else 1
            return f"{size:.{digits}f} {unit}".replace(".0 ", " ")
        size /= 1000
    return NOTHING


@register.filter
def duration(value: Any) -> str:
    """Seconds or a timedelta: 0.04 -> '40 ms', 123 -> '2 min 3 s', 7380 -> '2 h 3 min'."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else _number(value)
    if seconds is None:
        return NOTHING
    if seconds < 0:
        return f"−{duration(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 ", " ")
    left = round(seconds)
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if left >= size:
            rest = left % size // smaller
            return f"{left // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{left} s"


@register.filter
def number(value: Any, digits: int | None = None) -> str:
    """1234567 -> '1 234 567'. Fractions keep four significant digits, or `digits` after the point."""
    amount = _number(value)
    if amount is None:
        return NOTHING
    if digits is None and amount != int(amount):
        size = math.floor(math.log10(abs(amount)))
        if size < -4:
            return f"{amount:.2e}".replace("e-0", "e-")
        digits = max(0, 3 - size)
        text = f"{amount:,.{digits}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{amount:,.{digits or 0}f}"
    return text.replace(",", _THIN).replace("-", "−")


@register.filter
def compact(value: Any) -> str:
    """Big counts in little room: 134515008 -> '134.5 M'."""
    amount = _number(value)
    if amount is None:
        return NOTHING
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(amount) >= size:
            scale = 1e3 if unit == "k" else size
            return f"{amount / scale:.1f} {unit}".replace(".0 ", " ")
    return number(amount)


@register.filter
def percent(value: Any, digits: int = 1) -> str:
    """A share from 0 to 1: 0.853 -> '85.3%'."""
    share = _number(value)
    return NOTHING if share is None else f"{share * 100:.{digits}f}%".replace("-", "−")


@register.filter
def shortid(value: Any) -> str:
    """The end of an id: a UUIDv7 starts with its time, so what tells two apart comes last."""
    return str(value or "")[-8:] or NOTHING


def _time(value: Any, kind: str) -> SafeString | str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = datetime.fromtimestamp(value, UTC)
    if not isinstance(value, datetime):
        return NOTHING
    utc = value.astimezone(UTC)
    shown = f"{utc:%d %b %Y}" if kind == "day" else f"{utc:%d %b %Y, %H:%M} UTC"
    return format_html('<time datetime="{}" data-time="{}" title="{}">{}</time>', utc.isoformat(), kind, shown, shown)


@register.filter
def ago(value: Any) -> SafeString | str:
    """A moment (aware datetime, or Unix seconds) as '3 min ago' in the browser, as UTC without JavaScript."""
    return _time(value, "ago")


@register.filter
def when(value: Any) -> SafeString | str:
    """A moment with date and time in the viewer's zone."""
    return _time(value, "full")


@register.filter
def day(value: Any) -> SafeString | str:
    """A moment's date in the viewer's zone."""
    return _time(value, "day")


@register.filter
def pretty_json(value: Any) -> str:
    """A value as indented JSON, for `{% codeblock %}`."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


@register.filter
def lookup(mapping: Any, key: Any) -> Any:
    """`{{ scores|lookup:name }}`: one value of a mapping, or nothing."""
    return mapping.get(key) if isinstance(mapping, Mapping) else None


# ------------------------------------------------------------------ small things


@register.simple_tag
def icon(name: str, extra: str = "", label: str = "") -> SafeString:
    """A symbol of static/icons.svg. `extra` is a class (`icon-s`, `icon-l`); with `label` it is read aloud."""
    role = format_html('role="img" aria-label="{}"', label) if label else mark_safe('aria-hidden="true"')
    return format_html('<svg class="icon {}" {}><use href="{}#{}"/></svg>', extra, role, static("icons.svg"), name)


@register.simple_tag
def brand_mark() -> SafeString:
    return _render("brand_mark")


# state -> (look, icon, words if they differ)
STATES: dict[str, tuple[str, str, str]] = {
    "draft": ("", "draft", ""),
    "queued": ("", "clock", ""),
    "pending": ("", "clock", ""),
    "running": ("accent busy", "spinner", ""),
    "importing": ("accent busy", "spinner", ""),
    "loading": ("accent busy", "spinner", ""),
    "stopping": ("warn busy", "spinner", ""),
    "pausing": ("warn busy", "spinner", ""),
    "paused": ("warn", "pause", ""),
    "succeeded": ("ok", "check-circle", ""),
    "ready": ("ok", "check-circle", ""),
    "healthy": ("ok", "check-circle", ""),
    "production": ("ok", "deploy", ""),
    "active": ("ok", "check-circle", ""),
    "passed": ("ok", "check-circle", ""),
    "staging": ("accent", "flag", ""),
    "failed": ("bad", "x-circle", ""),
    "unhealthy": ("bad", "x-circle", ""),
    "refused": ("bad", "x-circle", ""),
    "revoked": ("bad", "minus-circle", ""),
    "cancelled": ("", "minus-circle", ""),
    "expired": ("warn", "clock", ""),
    "stopped": ("", "stop", ""),
    "archived": ("", "archive", ""),
    "none": ("", "circle", ""),
    "adapter": ("", "layers", ""),
    "full": ("", "models", "Full model"),
}


@register.simple_tag
def badge(state: Any, label: str = "", look: str = "", icon: str = "") -> SafeString:
    """A state as icon and words. `look` (ok, warn, bad, accent) and `icon` override what is known of it."""
    known_look, known_icon, words = STATES.get(str(state), ("", "circle", ""))
    return _render(
        "badge",
        state=str(state),
        classes=" ".join(f"badge-{name}" for name in (look or known_look).split()),
        icon_name=icon or known_icon,
        text=label or words or str(state).replace("_", " ").capitalize(),
    )


@register.simple_tag
def stat(
    label: str,
    value: Any,
    unit: str = "",
    hint: Any = "",
    href: str = "",
    icon: str = "",
    live: str = "",
    format: str = "",
) -> SafeString:
    """One number that matters. Put several into `<div class="stats">`.

    `live` is the metric that job.js writes here; `format` how: bytes, percent, seconds, integer, rate or number.
    """
    shown = NOTHING if value is None or value == "" else value
    return _render(
        "stat", label=label, value=shown, unit=unit, hint=hint, href=href, icon_name=icon, live=live, format=format
    )


@register.simple_tag
def meter(value: Any, maximum: float = 1.0, text: str = "", look: str = "") -> SafeString:
    """A number with a bar, for table cells. `text` defaults to the share in percent."""
    amount = _number(value)
    shown = text or (percent(amount / maximum) if amount is not None and maximum else NOTHING)
    return _render("meter", value=amount or 0, maximum=maximum, text=shown, look=look)


@register.simple_tag
def interval(value: Any, low: Any, high: Any, minimum: float = 0.0, maximum: float = 1.0) -> SafeString | str:
    """A value and its confidence interval on one shared scale, as a small drawing."""
    point, start, end = _number(value), _number(low), _number(high)
    if point is None or maximum <= minimum:
        return NOTHING

    def place(at: float) -> float:
        return round(100 * min(max((at - minimum) / (maximum - minimum), 0), 1), 2)

    start, end = point if start is None else start, point if end is None else end
    words = f"{number(point)}, between {number(start)} and {number(end)}"
    return _render("interval", at=place(point), start=place(start), end=place(end), words=words)


@register.simple_tag
def delta(new: Any, old: Any, higher_is_better: bool = True, digits: int = 3) -> SafeString | str:
    """How `new` differs from `old`, with an arrow; better or worse is said in words too."""
    after, before = _number(new), _number(old)
    if after is None or before is None:
        return NOTHING
    change = after - before
    text = f"{abs(change):.{digits}f}"
    if float(text) == 0:
        return _render("delta", look="", icon_name="", text="±0", words="unchanged")
    better = (change > 0) == higher_is_better
    look, words = ("better", "better") if better else ("worse", "worse")
    return _render("delta", look=look, icon_name="arrow-up" if change > 0 else "arrow-down", text=text, words=words)


@register.simple_tag
def sparkline(values: Iterable[Any], label: str = "") -> SafeString | str:
    """A line without axes, for table cells."""
    points = [point for point in map(_number, values) if point is not None]
    if len(points) < 2:
        return NOTHING
    low, high = min(points), max(points)
    span = (high - low) or 1.0
    step = 100 / (len(points) - 1)
    path = " ".join(
        f"{'L' if i else 'M'}{i * step:.1f} {22 - 20 * (point - low) / span:.1f}" for i, point in enumerate(points)
    )
    return _render("sparkline", path=path, label=label or f"from {number(points[0])} to {number(points[-1])}")


@register.simple_tag
def split(shares: Sequence[Any]) -> SafeString:
    """Weights of an A/B test as one divided bar, in the order of the swatches."""
    return _render("split", shares=[_number(share) or 0 for share in shares])


@register.simple_tag
def stars(value: Any) -> SafeString | str:
    """A rating from 1 to 5, to read."""
    rating = _number(value)
    return (
        NOTHING
        if rating is None
        else _render("stars", full=range(round(rating)), none=range(5 - round(rating)), value=number(rating))
    )


@register.simple_tag
def copyable(value: Any, short: bool = False, text: str = "") -> SafeString:
    """An id to copy. `short` shows only its end."""
    return _render("copyable", value=str(value), text=text or (shortid(value) if short else str(value)), short=short)


@register.simple_tag
def crumb(label: str, href: str = "") -> SafeString:
    """One step of the breadcrumbs; without `href` it is where we are."""
    if href:
        return format_html('<li><a href="{}">{}</a></li>', href, label)
    return format_html('<li aria-current="page" class="truncate">{}</li>', label)


@register.simple_tag
def tab(label: str, href: str, current: bool = False, count: Any = None) -> SafeString:
    """One link inside `<nav class="tabs" aria-label="…">`."""
    return _render("tab", label=label, href=href, current=current, count=count)


@register.simple_tag
def empty(icon: str, title: str, text: str = "", href: str = "", label: str = "") -> SafeString:
    """Nothing here yet: what would be here, and the one thing to do about it."""
    return _render("empty", icon_name=icon, title=title, text=text, href=href, label=label)


@register.simple_tag
def progress(
    step: Any, total: Any, unit: str = "", phase: str = "", eta: Any = None, state: str = "running"
) -> SafeString:
    """How far something is. `total` 0 or None: not known yet. `eta` in seconds."""
    done, wanted = _number(step) or 0, _number(total) or 0
    look = {"succeeded": "bar-ok", "failed": "bar-bad", "cancelled": "bar-mute", "paused": "bar-warn"}.get(state, "")
    moving = state in ("running", "pausing", "importing", "loading")
    return _render(
        "progress",
        step=done,
        total=wanted,
        unit=unit,
        phase=phase,
        eta=eta if moving else None,
        look=look,
        moving=moving,
        share=min(done / wanted, 1) if wanted else None,
    )


@register.simple_tag
def job_progress(job: Any) -> SafeString:
    """`progress` of a Job; job.js keeps it up to date inside an element with `data-live-job`."""
    return progress(job.step, job.total, job.unit, job.phase, getattr(job, "eta_seconds", None), str(job.state))


@register.simple_tag(takes_context=True)
def page_url(context: Context, **changes: Any) -> str:
    """The current address with some query parameters changed (None removes one)."""
    request = context["request"]
    query = request.GET.copy()
    for key, value in changes.items():
        query.pop(key, None)
        if value is not None:
            query[key] = value
    encoded = query.urlencode()
    return f"?{encoded}" if encoded else str(request.path)


@register.simple_tag(takes_context=True)
def pagination(context: Context, page: Page[Any], noun: str = "") -> SafeString | str:
    """Where we are in a paged list, and the way on. `noun` is the plural: 'jobs'. Nothing when one page holds all."""
    if not page.paginator.count or page.paginator.num_pages == 1:
        return ""
    previous = page_url(context, page=page.previous_page_number()) if page.has_previous() else ""
    following = page_url(context, page=page.next_page_number()) if page.has_next() else ""
    return _render("pagination", page=page, noun=noun, previous=previous, following=following)


@register.simple_tag(takes_context=True)
def sort_link(
    context: Context, label: str, field: str, numeric: bool = False, parameter: str = "ordering"
) -> SafeString:
    """A table head `<th>` that sorts: `?ordering=field`, then `-field`."""
    current = context["request"].GET.get(parameter, "")
    downwards = current == f"-{field}"
    target = field if downwards or (current != field and not numeric) else f"-{field}"
    direction = "descending" if downwards else "ascending" if current == field else ""
    href = page_url(context, **{parameter: target, "page": None})
    return _render("sort_link", label=label, href=href, direction=direction, numeric=numeric)


# ------------------------------------------------------------------ forms


@register.simple_tag
def field(bound: BoundField, label: str = "", help: str = "", cards: bool = False, optional: bool = True) -> SafeString:
    """A form field with label, control, help and errors, wired for screen readers."""
    widget = bound.field.widget
    kind = "plain"
    if isinstance(widget, forms.CheckboxSelectMultiple | forms.RadioSelect):
        kind = "cards" if cards else "choices"
    elif isinstance(widget, forms.CheckboxInput):
        kind = "check"
    elif isinstance(widget, forms.FileInput):
        kind = "file"
    return _render(
        "field",
        field=bound,
        kind=kind,
        label=label or bound.label,
        help=help or bound.help_text,
        optional=optional and not bound.field.required and bound.value() in (None, "", []) and kind != "check",
    )


@register.simple_tag
def form_errors(form: Any) -> SafeString:
    """What is wrong with the form as a whole; says how many fields need attention."""
    fields = sum(1 for name in form.errors if name != "__all__") if form.is_bound else 0
    return _render("form_errors", errors=form.non_field_errors(), fields=fields)


@register.simple_tag
def form_fields(form: Any) -> SafeString:
    """Every field of a form, errors first."""
    return _render("form_fields", form=form)


@register.simple_tag
def rating_input(name: str = "rating", value: Any = None, label: str = "Rating") -> SafeString:
    """Five stars to click, without JavaScript."""
    marks = ((1, "1: wrong"), (2, "2: poor"), (3, "3: usable"), (4, "4: good"), (5, "5: just right"))
    return _render("rating_input", name=name, value=int(value) if _number(value) else 0, label=label, marks=marks)


@register.simple_tag
def thumbs_input(name: str = "thumb", value: str = "", label: str = "Was this answer good?") -> SafeString:
    """Thumb up or down; posts `up` or `down`."""
    return _render("thumbs_input", name=name, value=value, label=label)


# ------------------------------------------------------------------ blocks: {% alert "warning" %} … {% endalert %}

_ALERT_ICONS = {
    "info": "info",
    "success": "check-circle",
    "warning": "alert",
    "danger": "x-circle",
    "error": "x-circle",
}


@register.simple_block_tag
def alert(content: str, level: str = "info", title: str = "") -> SafeString:
    """Something to notice: info, success, warning or danger."""
    return _render("alert", content=content, level=level, title=title, icon_name=_ALERT_ICONS.get(level, "info"))


@register.simple_block_tag
def codeblock(content: str, title: str = "", wrap: bool = False) -> SafeString:
    """Text to copy; indentation at the edges of the block is removed."""
    return _render("codeblock", content=mark_safe(content.strip("\n").rstrip()), title=title, wrap=wrap)  # noqa: S308  (escaped where it was written)


@register.simple_block_tag
def menu(content: str, label: str = "", icon: str = "", end: bool = False, small: bool = False) -> SafeString:
    """A button that opens a list of `menu-item` links and buttons. Without a label it is three dots."""
    return _render("menu", content=content, label=label, icon_name=icon, end=end, small=small)


@register.simple_block_tag(takes_context=True)
def confirm(
    context: Context,
    content: str,
    action: str,
    label: str,
    title: str = "",
    button: str = "",
    icon: str = "",
    danger: bool = True,
    small: bool = False,
    quiet: bool = False,
) -> SafeString:
    """A button that asks before it posts to `action`. The block says what will happen and may hold form fields.

    With JavaScript it opens as a dialog, without as a box below the button.
    """
    return _render(
        "confirm",
        content=content,
        action=action,
        label=label,
        title=title or f"{label}?",
        button=button or label,
        icon_name=icon,
        danger=danger,
        small=small,
        quiet=quiet,
        number=next(_serial),
        csrf_token=context.get("csrf_token"),
    )


@register.simple_tag(takes_context=True)
def post_button(
    context: Context, label: str, action: str, icon: str = "", look: str = "", name: str = "", value: str = ""
) -> SafeString:
    """A button that posts at once, for what can be undone. `look`: primary, danger, quiet, s."""
    classes = " ".join(f"btn-{word}" for word in look.split())
    return _render(
        "post_button",
        label=label,
        action=action,
        icon_name=icon,
        classes=classes,
        name=name,
        value=value,
        csrf_token=context.get("csrf_token"),
    )


@register.simple_tag
def chart(
    url: str,
    keys: str,
    title: str = "",
    labels: str = "",
    unit: str = "",
    x: str = "step",
    tools: bool = True,
    small: bool = False,
) -> SafeString:
    """A live line chart of a metrics URL (`…/metrics/`): `keys` and their `labels` are separated by commas.

    `unit`: '' (a number), 'bytes', 'percent' (0 to 100) or 'seconds'.
    """
    return _render(
        "chart",
        url=url,
        query=urlencode({"keys": keys, "px": 800}),
        keys=keys,
        labels=labels,
        title=title,
        unit=unit,
        x=x,
        tools=tools,
        small=small,
        number=next(_serial),
    )


@register.simple_block_tag
def bubble(content: str, role: str = "assistant", who: str = "") -> SafeString:
    """One turn of a conversation."""
    names = {"user": "You", "assistant": "Model", "system": "System prompt"}
    return _render("bubble", content=mark_safe(content.strip()), role=role, who=who or names.get(role, role))  # noqa: S308


# ------------------------------------------------------------------ navigation

_SECTIONS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("home", "Home", "home", ()),
    ("datasets", "Data sets", "data", ("dataset",)),
    ("jobs", "Jobs", "jobs", ("job", "finetune", "fine-tune", "evaluation")),
    ("models", "Models", "models", ("model", "compare", "deployment", "version")),
    ("playground", "Playground", "playground", ("playground",)),
    ("abtests", "A/B tests", "abtests", ("abtest",)),
    ("feedback", "Feedback", "feedback", ("feedback", "answer")),
)


@register.inclusion_tag("components/navigation.html", takes_context=True)
def navigation(context: Context) -> dict[str, Any]:
    """The links of the sidebar. A page that is not built yet is absent."""
    request = context.get("request")
    match = getattr(request, "resolver_match", None)
    here = str(context.get("section") or (match.url_name if match else "") or "")
    items = []
    for name, label, icon_name, prefixes in _SECTIONS:
        try:
            href = reverse(name)
        except NoReverseMatch:
            continue
        current = here == name or any(here.startswith(prefix) for prefix in prefixes)
        items.append({"href": href, "label": label, "icon": icon_name, "current": current})
    return {"items": items}


@register.simple_tag
def url_or(name: str, *arguments: Any) -> str:
    """The address of a page, or '' while nobody has built it."""
    try:
        return reverse(name, args=arguments)
    except NoReverseMatch:
        return ""


@register.filter
def initials(value: Any) -> str:
    """'Acme Support' -> 'AS', 'ada@example.com' -> 'A'."""
    words = str(value or "?").partition("@")[0].replace(".", " ").replace("-", " ").split()
    return "".join(word[0] for word in words[:2]).upper() or "?"
