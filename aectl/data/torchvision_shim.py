"""torchvision, imported when it is asked for, also where its compiled operators are out of reach.

torchvision's default wheel is built for CUDA. Beside a CPU-only torch its library cannot be loaded, and `import
torchvision` stops with "operator torchvision::nms does not exist", although datasets, transforms and `make_grid` need
no compiled operator at all. Declaring the two operators that the import looks up is enough.

    from aectl.data.torchvision_shim import torchvision
    grid = torchvision().utils.make_grid(images)
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from types import ModuleType

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
MISSING = "operator torchvision::nms does not exist"


@functools.cache
def torchvision() -> ModuleType:
    """Return torchvision; afterwards plain `import torchvision`, as other packages do it, works as well.

    Call it before `import torchmetrics.functional.image`, which imports torchvision. Raises ImportError where it is
    not installed, and whatever else its import raises.
    """
    with warnings.catch_warnings():
        # The same mismatch costs torchvision.io its decoders, of which some versions warn; nothing here decodes files.
        warnings.filterwarnings("ignore", message="Failed to load image Python extension")
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            if MISSING not in str(error):
                raise
        declare_operators()
        # What the failed import left behind would be taken for imported.
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        return importlib.import_module("torchvision")


@functools.cache
def declare_operators() -> object:
    """Declare the schemas of `nms` and `qnms` without kernels; return the library that keeps them declared."""
    import torch

    # The cache holds the library: torch withdraws the declarations as soon as it is collected.
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(f"nms{SIGNATURE}")
    library.define(f"qnms{SIGNATURE}")
    return library
