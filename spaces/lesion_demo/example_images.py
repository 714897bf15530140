"""The images to try: drawings that come with the page, and the host's own, each with a caption and its source."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from image_files import ImageUnusableError, read_image
from page_images import thumbnail

OWN = Path(__file__).with_name("examples")
LIST = "examples.json"
MOST = 12


@dataclass(frozen=True)
class Example:
    """An image to try.

    Attributes:
        path: the file.
        caption: what it shows, in a few words.
        attribution: who made it, and under which licence.
        image: its thumbnail as a data URI.
    """

    path: Path
    caption: str
    attribution: str
    image: str


def read_examples(*folders: Path | None) -> list[Example]:
    """The examples of each folder in order; what cannot be read, or names no caption or source, is left out."""
    found: list[Example] = []
    for folder in (f for f in folders if f is not None):
        for item in _listed(folder):
            path = folder / str(item.get("file", ""))
            caption, attribution = str(item.get("caption") or ""), str(item.get("attribution") or "")
            if not caption or not attribution or not path.resolve().is_relative_to(folder.resolve()):
                continue
            try:
                found.append(Example(path, caption, attribution, thumbnail(read_image(path))))
            except ImageUnusableError:
                continue
    return found[:MOST]


def _listed(folder: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads((folder / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    items = content.get("examples") if isinstance(content, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def example_buttons(examples: list[Example]) -> str:
    """Buttons with thumbnail and caption, each with its source unless most share it; a click gives its number."""
    if not examples:
        return ""
    sources = [example.attribution.rstrip(".") for example in examples]
    common, times = Counter(sources).most_common(1)[0]
    buttons = "".join(
        f'<li><button type="button" data-example="{number}"><img src="{example.image}" alt="" width="72" height="72">'
        f"<span>{escape(example.caption)}</span></button>"
        f"{'' if source == common and times > 1 else f'<p class=source>{escape(source)}</p>'}</li>"
        for number, (example, source) in enumerate(zip(examples, sources, strict=True))
    )
    whose = "" if times == len(sources) else "Those without a name below them: "
    last = f'<p class="small">{whose}{escape(common)}.</p>' if times > 1 else ""
    return (
        '<p class="label" id="examples-label">Or try one of these</p><ul class="examples" '
        f'aria-labelledby="examples-label">{buttons}</ul>{last}'
    )


PICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-example]');
  if (button) trigger('click', { number: Number(button.dataset.example) });
});
"""
