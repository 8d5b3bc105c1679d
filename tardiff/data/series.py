"""Series with their labels and what their numbers mean, as sampling returns them and evaluation takes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tardiff.data.format import Dataset, Metadata, Split, read_metadata, read_split, write_dataset
from tardiff.data.frames import from_frame, to_frame
from tardiff.utils.errors import UserError
from tardiff.utils.figures import channel_bands


@dataclass(frozen=True)
class LabelledSeries:
    """N series of L steps and C channels, real or synthetic; layers above may add what they can do with them."""

    split: Split
    meta: Metadata

    @classmethod
    def read(cls, folder: str | Path, split: str = "train") -> LabelledSeries:
        """Read one split of a dataset folder. Raises UserError that lists its faults."""
        meta = read_metadata(Path(folder) / "meta.json")
        return cls(read_split(Path(folder) / f"{split}.npz", meta), meta)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, **options) -> LabelledSeries:
        """Take over a frame, with the options of `tardiff.data.frames.from_frame`. Raises UserError on its faults."""
        return cls(*from_frame(frame, **options))

    def __repr__(self) -> str:
        counts = ", ".join(f"{(self.y == label).sum()} {name}" for label, name in enumerate(self.meta.classes))
        return f"<{len(self)} series of {self.x.shape[1]} steps x {self.x.shape[2]} channels: {counts}>"

    def __len__(self) -> int:
        return len(self.split)

    @property
    def x(self) -> np.ndarray:
        """The values (N, L, C) float32, in the units of `meta.units`."""
        return self.split.x

    @property
    def y(self) -> np.ndarray:
        """The class numbers (N,) int64."""
        return self.split.y

    @property
    def labels(self) -> np.ndarray:
        """The class names (N,)."""
        return np.array(self.meta.classes)[self.y]

    def to_frame(self, form: str = "wide") -> pd.DataFrame:
        """Return a frame, `wide` (one column a channel) or `long` (one row a value); see `tardiff.data.frames`."""
        return to_frame(self.split, self.meta, form)

    def plot(self, real: LabelledSeries | Dataset | str | Path | None = None, name: str = "synthetic") -> Figure:
        """Return a figure of the median and the 10-90 % band over time, and single series, per class and channel.

        real: series to draw beside them, also a dataset or its folder, of which the training rows are drawn.
        Raises UserError if its channels or classes are other ones.
        """
        sets = {name: (self.x, self.y)}
        if real is not None:
            other = LabelledSeries.read(real) if isinstance(real, (str, Path)) else real
            split = other.split if isinstance(other, LabelledSeries) else other.train
            if (other.meta.channels, other.meta.classes) != (self.meta.channels, self.meta.classes):
                raise UserError(f"the real series have channels {other.meta.channels} and classes "
                                f"{other.meta.classes}, these have {self.meta.channels} and {self.meta.classes}.")
            sets = {"real": (split.x, split.y), **sets}
        return channel_bands(sets, self.meta.channels, self.meta.units, self.meta.classes,
                             self.meta.times(self.x.shape[1]), examples=3)

    def write(self, folder: str | Path) -> None:
        """Write a dataset folder with the series as its training split, which may lack classes.

        Raises UserError, before anything is written, on invalid values, and if the folder holds anything but these
        series.
        """
        write_dataset(folder, {"train": self.split}, self.meta, every_class=False)
