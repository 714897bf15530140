"""A report as the card's templates see it: every value knows its path, and nothing missing stays unnoticed.

A template writes ``report.evaluation.test.discrimination.accuracy | num``. Where that number is absent, null without a
reason, or not finite, the build stops with the path; it never prints a hole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from datasets_scripts.command import UserError


class MissingNumberError(UserError):
    """A value that the card shows is missing from report.json.

    Attributes:
        path: where it belongs, e.g. ``evaluation.test.calibration.after.ece``.
    """

    def __init__(self, path: str, problem: str = "is missing") -> None:
        super().__init__(f"report.json: {path} {problem}: evaluate the model again, then build the card")
        self.path = path


class ReportNode:
    """One value of the report together with its path. Index it as the JSON itself; iterate a list or a map's keys."""

    __slots__ = ("_path", "_raw")

    def __init__(self, raw: Any, path: str = "") -> None:
        self._raw = raw
        self._path = path

    def __getitem__(self, key: str | int) -> ReportNode:
        path = f"{self._path}[{key}]" if isinstance(key, int) else f"{self._path}.{key}".lstrip(".")
        container = self._raw
        if isinstance(container, dict) and key in container:
            return ReportNode(container[key], path)
        if isinstance(container, list) and isinstance(key, int) and key < len(container):
            return ReportNode(container[key], path)
        raise MissingNumberError(path)

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._raw, dict):
            return iter(self._raw)
        if isinstance(self._raw, list):
            return (ReportNode(item, f"{self._path}[{i}]") for i, item in enumerate(self._raw))
        raise MissingNumberError(self._path, f"is {self._raw!r} and not a list or a map")

    def __len__(self) -> int:
        return len(self._raw) if isinstance(self._raw, dict | list | str) else 1

    def __contains__(self, key: object) -> bool:
        return isinstance(self._raw, dict | list | str) and key in self._raw

    def __str__(self) -> str:
        if self._raw is None or isinstance(self._raw, dict | list):
            raise MissingNumberError(self._path, f"is {type(self._raw).__name__} where a text or number is needed")
        return str(self._raw)


def raw(node: ReportNode) -> Any:
    """The JSON value itself."""
    return node._raw


def path_of(node: ReportNode) -> str:
    """The value's place in the report."""
    return node._path


def given(node: ReportNode) -> bool:
    """Whether a value that may be null is there."""
    return node._raw is not None


def pairs(node: ReportNode) -> list[tuple[str, ReportNode]]:
    """(key, value) of a map, in the report's order."""
    return [(key, node[key]) for key in node]


def optional(node: ReportNode, key: str) -> ReportNode:
    """A list that a report may leave out: no number of a card may come from here."""
    return node[key] if key in node else ReportNode([], f"{node._path}.{key}")


def about_malignancy(node: ReportNode) -> bool:
    """Whether a text speaks of malignant classes, which a model may not have."""
    return "malignan" in str(node).lower()


def number(node: ReportNode) -> float:
    """A finite plain number.

    Raises:
        MissingNumberError: null, not a number, NaN or infinite.
    """
    value = node._raw
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MissingNumberError(node._path, f"is {value!r} and not a number")
    if not math.isfinite(value):
        raise MissingNumberError(node._path, f"is {value}, which is not finite")
    return value


def num(node: ReportNode, digits: int = 3, factor: float = 1.0, unit: str = "") -> str:
    """A measured number with its 95 % interval: ``0.816 (0.795–0.836)``, or why it is not defined.

    Args:
        node: ``{"value", "low", "high", "method"}``, or ``{"value": null, "why": "not defined: support 0"}``. Bounds
            that are null need a ``method`` that says so: ``no interval: ...``.
        digits: decimals.
        factor: what all three are multiplied by.
        unit: what follows the value.

    Raises:
        MissingNumberError: the value, a bound, or the reason for their absence is missing.
    """
    value = node["value"]
    if value._raw is None:
        return str(node["why"])
    text = f"{factor * number(value):.{digits}f}{unit}"
    if given(node["low"]) and given(node["high"]):
        low, high = factor * number(node["low"]), factor * number(node["high"])
        dash = " to " if low < 0 else "–"
        return f"{text} ({low:.{digits}f}{dash}{high:.{digits}f})"
    if not str(node["method"]).startswith("no interval"):
        raise MissingNumberError(f"{node._path}.low", "or .high is null, and .method does not say why")
    return f"{text} (no interval)"


def rate(node: ReportNode, digits: int = 1) -> str:
    """A measured share as ``4.1 % (2.8–5.8)``; as ``num`` else."""
    return num(node, digits, 100.0, " %")


def share(node: ReportNode) -> str:
    """A share that somebody chose, with as many digits as it has: ``5 %``, ``2.5 %``."""
    return f"{100 * number(node):.10g} %"


def signed(node: ReportNode, digits: int = 3, unit: str = "") -> str:
    """A measured difference with its sign and its 95 % interval: ``+0.012 (-0.003 to +0.027)``."""
    value = node["value"]
    if value._raw is None:
        return str(node["why"])
    factor = 100.0 if unit else 1.0
    text = f"{factor * number(value):+.{digits}f}{unit}"
    if not (given(node["low"]) and given(node["high"])):
        return f"{text} (no interval)"
    low, high = factor * number(node["low"]), factor * number(node["high"])
    return f"{text} ({low:+.{digits}f} to {high:+.{digits}f})"


def signed_percent(node: ReportNode) -> str:
    """A measured relative change as ``-12 % (-20 to -4)``."""
    return signed(node, digits=0, unit=" %")


def fixed(node: ReportNode, digits: int = 3) -> str:
    """A plain number with a fixed count of decimals; a measured one with its interval."""
    return num(node, digits) if isinstance(node._raw, dict) else f"{number(node):.{digits}f}"


def count(node: ReportNode) -> str:
    """A whole number with thousands separated: ``10,015``.

    Raises:
        MissingNumberError: missing, or not whole.
    """
    if number(node) != int(number(node)):
        raise MissingNumberError(node._path, f"is {node._raw!r} and not a whole number")
    return f"{int(number(node)):,}"


def percent(node: ReportNode, digits: int = 1) -> str:
    """A share in [0, 1] as ``39.0 %``."""
    return f"{100 * number(node):.{digits}f} %"


def of_100(node: ReportNode) -> str:
    """A share in [0, 1] with one denominator, in the words of the page: ``17 of 100``."""
    value = number(node)
    if value < 0.005:
        return "none of 100" if value == 0 else "fewer than 1 of 100"
    return f"{100 * value:.0f} of 100"


def about_in(node: ReportNode) -> str:
    """A share in [0, 1] in plain words, as the page has them: ``about 3 in 10``, ``about 6 in 100``."""
    value = number(node)
    if value < 0.005:
        return "fewer than 1 in 100"
    if value > 0.995:
        return "more than 99 in 100"
    tenths = round(10 * value)
    if 0 < tenths < 10 and abs(value - tenths / 10) < 0.015:
        return f"about {tenths} in 10"
    return f"about {100 * value:.0f} in 100"


def duration(node: ReportNode) -> str:
    """Seconds as ``95 s``, ``31 min`` or ``1 h 52 min``."""
    seconds = number(node)
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def size(node: ReportNode) -> str:
    """Bytes as ``640 MB`` or ``1.9 GB`` (powers of ten)."""
    return size_text(number(node))


def size_text(amount: float) -> str:
    """Bytes as ``812 B``, ``12.3 kB``, ``640.0 MB`` or ``1.9 GB`` (powers of ten)."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if amount >= factor:
            return f"{amount / factor:.1f} {unit}"
    return f"{amount:.0f} B"


def short(node: ReportNode, digits: int = 12) -> str:
    """The first digits of a hash; the report has the whole one."""
    return str(node)[:digits]


def cell(value: object) -> str:
    """Any text, fit for one cell of a Markdown table, also as code: no name from data makes a tag, a link or code."""
    text = re.sub(r"<(?=[A-Za-z/!?])", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", " ".join(str(value).split()))
    return text.replace("|", "\\|").replace("`", "'").replace("](", "] (")


def codes(names: Iterable[object]) -> str:
    """Names as code, in a row: ```bcc`, `mel```; of many the first ``MOST_NAMES`` and how many more there are."""
    texts = [f"`{cell(name)}`" for name in names]
    more = f" and {len(texts) - MOST_NAMES} more" if len(texts) > MOST_NAMES else ""
    return ", ".join(texts[:MOST_NAMES]) + more


def stated(node: ReportNode) -> list[str]:
    """The texts of a list; ``not stated`` in the place of the builders' ``unknown``."""
    return ["not stated" if str(text) == "unknown" else str(text) for text in node]


# Names and classes that a sentence or a table of README.md shows; REPORT.md has all classes.
MOST_NAMES = 20
FILTERS = {
    "about_in": about_in,
    "cell": cell,
    "codes": codes,
    "count": count,
    "duration": duration,
    "fixed": fixed,
    "num": num,
    "number": number,
    "optional": optional,
    "of_100": of_100,
    "pairs": pairs,
    "path": path_of,
    "percent": percent,
    "rate": rate,
    "raw": raw,
    "share": share,
    "short": short,
    "signed": signed,
    "signed_percent": signed_percent,
    "size": size,
    "stated": stated,
}
TESTS = {"given": given, "about_malignancy": about_malignancy}
