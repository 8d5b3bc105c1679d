"""Stage 2: train the downstream classifier that guides."""

from __future__ import annotations

from classifier.models import build_classifier, custom_source
from classifier.train import Guide, chance_warning, fit_network, guide_auroc, normalized_splits, save_classifier
from tardiff.config import ClassifierConfig
from tardiff.data.format import read_dataset
from tardiff.evaluation.metrics import chance_average_precision
from tardiff.library import Guidance
from tardiff.utils.distributed import resolve_device
from tardiff.utils.logging import open_run


def run(config: ClassifierConfig, dry_run: bool) -> None:
    """Train the classifier of a run folder, resuming. Raises UserError if dataset and settings do not fit."""
    device = resolve_device(config.device)
    dataset = read_dataset(config.data, ("train", "val"))
    normalizer, parts = normalized_splits(dataset, config.normalizer, config.model.reads_mask)
    model = build_classifier(config.model, config.model.input_shape(dataset.shape), dataset.num_classes)
    size = sum(parameter.numel() for parameter in model.parameters())
    for section in config.model.without_effect():
        print(f"note: model.{section} has no effect with model.name={config.model.name}.")
    print(f"{config.model.name}: {size:,} parameters; {len(dataset.train):,} training and "
          f"{len(parts['selection'][1]):,} selection series of shape {dataset.shape}; on {device}")
    if dry_run:
        return
    inputs = {"train": dataset.train.fingerprint(), "val": dataset.val.fingerprint(), **custom_source(config.model)}
    run_folder = open_run(config.output, config, inputs)
    fitted = fit_network(parts["train"], parts["selection"], dataset.num_classes, config.model, config.training,
                         config.seed, device, run_folder, dataset.positive)
    auroc = guide_auroc(fitted, parts["guidance"][0], dataset)
    save_classifier(run_folder.folder, config, fitted, normalizer, dataset, auroc)
    run_folder.close()
    chance = chance_average_precision(parts["selection"][1], dataset.num_classes, dataset.positive)
    of = f" of {dataset.meta.classes[dataset.positive]}" if dataset.num_classes == 2 else ""
    print(f"AUROC on the guidance half, which training does not read: {auroc[0]:.4f} [{auroc[1]:.4f}, {auroc[2]:.4f}]")
    print(f"selection AUPRC{of} {fitted.selection_auprc:.4f} (chance: {chance:.4f}), log-loss "
          f"{fitted.selection_loss:.4f}, at step {fitted.step}; written to {config.output}")
    if (warning := chance_warning(*auroc, dataset)) is not None:
        print(warning)
    guide = Guide.load(config.output, device)
    for classes in ("all", "balanced"):
        print(*Guidance(guide, dataset, objective="influence", classes=classes).signal_words(), sep="\n")
