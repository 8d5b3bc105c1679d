"""TarDiff: target-oriented diffusion guidance for synthetic clinical time series.

    base = tardiff.load_denoiser("runs/simulated/base")
    guide = tardiff.load_guide("runs/simulated/classifier")
    series = base.sample({"died": 10}, seed=0, guidance=tardiff.Guidance(guide, scale=0.5))
    series.to_frame()
    series.plot("data/simulated")
    tardiff.evaluate("data/simulated", {"guided": series}, seeds=3)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tardiff.data.format import read_dataset
    from tardiff.data.series import LabelledSeries
    from tardiff.library import Denoiser, Guidance, evaluate, load_denoiser, load_guide, load_teacher
    from tardiff.utils.errors import UserError

__version__ = "0.2.0"
__all__ = ["Denoiser", "Guidance", "LabelledSeries", "UserError", "evaluate", "load_denoiser", "load_guide",
           "load_teacher", "read_dataset"]
_MODULES = {"read_dataset": "data.format", "LabelledSeries": "data.series", "UserError": "utils.errors"}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then, so that a command's `--help` does not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'tardiff' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tardiff.{_MODULES.get(name, 'library')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
