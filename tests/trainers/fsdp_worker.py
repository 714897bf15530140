"""Run by the test of FSDP, on each process: a train script under FSDP2 on CPUs, where accelerate does not offer it.

Usage: fsdp_worker.py SCRIPT [OPTION ...]. accelerate treats its two CPU processes as GPUs; everything after that
(the config's settings, torch's fully_shard over gloo, checkpoints, gathering) is as it would be there.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
as_it_is = PartialState.__init__


def as_gpus(self: PartialState, *args: Any, **kwargs: Any) -> None:
    """The state of several CPU processes, under the name of several GPUs."""
    as_it_is(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = as_gpus  # type: ignore[method-assign]
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
