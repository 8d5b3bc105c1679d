"""From published files to TarDiff datasets, one module per source."""
