"""What TarDiff is compared with, under one interface: generators that are trained, and the rules that all must beat.

Each module holds `Config`, the settings of the baseline, and `build(config, length, num_channels, num_classes)`;
`training.BaselineRun(module, dataset, config)` trains it and samples in raw units.
"""

BASELINES = ("timegan", "timevae", "timevqvae", "diffusion_ts", "biodiffusion", "rules")
