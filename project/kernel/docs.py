"""The documentation: Markdown files in templates/docs, rendered for `/docs/`."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from django.conf import settings
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

_FOLDER = Path(settings.BASE_DIR) / "templates" / "docs"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class Doc:
    """One page. `headings` are (anchor, text) of its second level."""

    name: str
    title: str
    html: SafeString
    headings: tuple[tuple[str, str], ...]


def page(name: str) -> Doc | None:
    """The page called `name` (letters, digits, '-'), or None."""
    path = _FOLDER / f"{name}.md"
    if not _NAME.fullmatch(name) or not path.is_file():
        return None
    return _render(name, path.stat().st_mtime_ns)


def contents() -> list[tuple[str, str]]:
    """(name, title) of every page, in the order of the index's links, then by name."""
    index = (_FOLDER / "index.md").read_text() if (_FOLDER / "index.md").is_file() else ""
    order = re.findall(r"\]\(/docs/([a-z0-9-]+)/?\)", index)
    names = sorted(path.stem for path in _FOLDER.glob("*.md"))
    names.sort(key=lambda name: (name != "index", order.index(name) if name in order else len(order)))
    return [(name, _title((_FOLDER / f"{name}.md").read_text(), name)) for name in names]


def _title(text: str, name: str) -> str:
    first = text.lstrip().partition("\n")[0]
    return first.removeprefix("# ").strip() or name


@lru_cache(maxsize=64)
def _render(name: str, _changed: int) -> Doc:
    text = (_FOLDER / f"{name}.md").read_text()
    markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    tokens = markdown.parse(text)
    headings: list[tuple[str, str]] = []
    for position, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag != "h1":
            title = tokens[position + 1].content
            anchor = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
            token.attrSet("id", anchor)
            if token.tag == "h2":
                headings.append((anchor, title.replace("`", "")))
    html = markdown.renderer.render(tokens, markdown.options, {})
    return Doc(name, _title(text, name), mark_safe(html), tuple(headings))  # noqa: S308  (our own files, HTML off)
