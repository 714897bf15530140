"""The tutorial notebook runs as it is written, with fewer and smaller images."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "trainers" / "notebooks" / "own_data.ipynb"
TINY = "IMAGES_PER_CLASS, IMAGE_SIZE, BACKBONE, EPOCHS, REPLICATES = 24, 32, 'mobilenetv2_035', 1, 10"


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
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    for outputs in (kept, shown(notebook)):
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
