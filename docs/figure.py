"""Draw docs/series.png, the figure of README.md, of what `bash scripts/quickstart.sh` has made."""

from tardiff.data.series import LabelledSeries
from tardiff.utils.figures import channel_bands

CHANNELS = ["HR", "SBP", "RR", "SpO2"]

real = LabelledSeries.read("data/simulated")
guided = LabelledSeries.read("runs/simulated/synthetic/guided")
chosen = [real.meta.channels.index(channel) for channel in CHANNELS]
figure = channel_bands({"real": (real.x[..., chosen], real.y), "guided": (guided.x[..., chosen], guided.y)}, CHANNELS,
                       [real.meta.units[channel] for channel in chosen], real.meta.classes,
                       real.meta.times(real.x.shape[1]), examples=3)
figure.savefig("docs/series.png", dpi=75)
