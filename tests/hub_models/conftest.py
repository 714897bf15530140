"""Makes the shared testers importable, as ``lesion_model_tester`` and so on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# Each is imported by those after it.
for _file in ("trust_tester.py", "explain_tester.py", "shipping_tester.py", "model_tester.py"):
    _name = f"lesion_{Path(_file).stem}"
    if _name not in sys.modules:
        _spec = importlib.util.spec_from_file_location(_name, Path(__file__).with_name(_file))
        if _spec is None or _spec.loader is None:
            raise ImportError(f"{_file} is not beside {__file__}")
        _module = importlib.util.module_from_spec(_spec)
        sys.modules[_name] = _module
        _spec.loader.exec_module(_module)
