"""TarDiff: target-oriented diffusion guidance for synthetic clinical time series."""

__version__ = "0.1.0"
