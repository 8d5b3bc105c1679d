"""What TarDiff is compared with, under one interface: generators that are trained, and the rules that all must beat.

Each module holds `Config`, the settings of the baseline, and `build(config, length, num_channels, num_classes)`;
`training.fit(module, dataset, config, run_dir)` trains it, and what it returns samples in raw units.
"""

BASELINES = ("timegan", "timevae", "timevqvae", "diffusion_ts", "biodiffusion", "rules")
