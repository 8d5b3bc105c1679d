"""The methods that TarDiff is compared with, under one interface, and the simple rules that every generator must beat.

Each module holds `Config`, the settings of the method, and `build(config, length, num_channels, num_classes)`;
`training.fit(module, dataset, config, run_dir)` trains it, and what it returns samples in raw units.
"""

BASELINES = ("timegan", "timevae", "timevqvae", "diffusion_ts", "biodiffusion", "rules")
