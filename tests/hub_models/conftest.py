"""Makes the shared model tester importable as ``lesion_model_tester``, without touching the import path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

NAME = "lesion_model_tester"

if NAME not in sys.modules:
    _spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("model_tester.py"))
    if _spec is None or _spec.loader is None:
        raise ImportError(f"the model tester is not beside {__file__}")
    _module = importlib.util.module_from_spec(_spec)
    sys.modules[NAME] = _module
    _spec.loader.exec_module(_module)
