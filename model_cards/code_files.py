"""The code of a model's folder: each file, its length and its purpose, for whoever audits ``trust_remote_code``."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any


def code_files(folder: Path) -> list[dict[str, Any]]:
    """``file``, ``lines`` and ``purpose`` (the first line of its docstring) of each Python file, by name."""
    rows = []
    for path in sorted(folder.glob("*.py")):
        text = path.read_text("utf-8")
        try:
            purpose = (ast.get_docstring(ast.parse(text)) or "not stated").splitlines()[0]
        except (SyntaxError, ValueError):
            purpose = "not stated: it is not Python"
        rows.append({"file": path.name, "lines": len(text.splitlines()), "purpose": purpose})
    return rows
