"""The card of a model as one text: README.md and the REPORT.md beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_cards.card import CARD, DETAILS, render


def card_text(report: dict[str, Any], files: Sequence[str]) -> str:
    """Everything that the card of a report says."""
    return "\n".join(render(report, files).values())


def folder_card(folder: Path) -> str:
    """Everything that the card in a folder says."""
    return "\n".join((folder / name).read_text("utf-8") for name in (CARD, DETAILS) if (folder / name).is_file())
