"""The tutorial notebook runs as it is written, with fewer and smaller images."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nbformat
import processes

NOTEBOOK = Path(__file__).parents[2] / "trainers" / "notebooks" / "own_data.ipynb"
TINY = "IMAGES_PER_CLASS, IMAGE_SIZE, BACKBONE, EPOCHS, REPLICATES = 24, 32, 'mobilenetv2_035', 1, 10"
# Runs cells as a kernel does, without a kernel that imports torch again; writes what each of them showed.
SHELL = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

shell, shown = InteractiveShell.instance(), []
for source in json.load(open(sys.argv[1])):
    with capture_output() as said:
        result = shell.run_cell(source, store_history=True)
    result.raise_error()
    shown.append(said.stdout + said.stderr + str(getattr(result.result, "data", "")))  # Markdown's
    json.dump(shown, open(sys.argv[2], "w"))
"""


def shown(notebook: nbformat.NotebookNode) -> list[str]:
    """What each code cell printed or returned."""
    return [
        "".join(output.get("text", "") or str(output.get("data", {})) for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_the_tutorial_runs_and_its_outputs_are_committed(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kept = shown(notebook)
    assert [cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code"] == list(
        range(1, len(kept) + 1)
    )
    (settings,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    settings.source = f"WORK = Path({str(tmp_path / 'work')!r})\n{TINY}"
    cells, found = tmp_path / "cells.json", tmp_path / "shown.json"
    cells.write_text(json.dumps([cell.source for cell in notebook.cells if cell.cell_type == "code"]))
    env = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")}
    done = processes.run(
        [sys.executable, "-c", SHELL, str(cells), str(found)], env=env, cwd=NOTEBOOK.parent, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for outputs in (kept, json.loads(found.read_text())):
        text = "\n".join(outputs)
        assert "3 classes written to" in text
        assert "is a complete Hub repo" in text
        assert "test images, each counted as a lesion of its own" in text
        assert "org/own-images" in text
        assert "'p_malignant': None" in text
        assert not [
            word for word in ("Traceback", "error:", "/home/", "/root/", "/tmp/pytest") if word in "\n".join(kept)
        ]
        assert outputs[-2].strip().endswith(".")  # the message that the page gave
