"""Import torchvision on first use, even if its compiled operators are unavailable.

torchvision's default wheel is built for CUDA. With a CPU-only torch, `import torchvision` fails with "operator
torchvision::nms does not exist", although datasets, transforms and `make_grid` need no compiled operators. It succeeds
if the two operators that the import looks up are declared first.

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
    """Return torchvision; afterwards a plain `import torchvision` works too.

    Call it before `import torchmetrics.functional.image`, which imports torchvision. Raises ImportError if torchvision
    is not installed.
    """
    with warnings.catch_warnings():
        # With the same mismatch, some versions warn that torchvision.io lacks its decoders, which are not used here.
        warnings.filterwarnings("ignore", message="Failed to load image Python extension")
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            if MISSING not in str(error):
                raise
        declare_operators()
        # Remove partially imported modules, or the second import would return them.
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        return importlib.import_module("torchvision")


@functools.cache
def declare_operators() -> object:
    """Declare the schemas of `nms` and `qnms` without kernels, and return their library."""
    import torch

    # The function's cache keeps the library alive: torch removes the declarations when it is garbage-collected.
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(f"nms{SIGNATURE}")
    library.define(f"qnms{SIGNATURE}")
    return library
