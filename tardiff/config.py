"""The settings of every stage, as frozen dataclasses; `load_config` fills them from YAML and `key=value` arguments."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tardiff.utils.errors import UserError
from tardiff.utils.settings import load_settings, setting

T = TypeVar("T")

NORMALIZER_TEXT = "Map from raw to normalised units, fitted on train; generator and guide must share it."
NORMALIZERS = ("zscore", "minmax", "ecdf", "normal_ecdf", "global_ecdf")
LABELS_TEXT = "Label plan: train (the class counts of train), balanced, or counts per class, [900, 100] or {died: 100}."
NUM_SAMPLES_TEXT = "Series to make under the plans train and balanced; null: as many as in train."
DEVICE_TEXT = "Where to compute: auto (cuda if there is one, else cpu), cpu, cuda or cuda:N."
NAME_TEXT = "Name of the study: what it makes goes to runs/NAME. By default the name of the dataset's folder."
AUTO = "auto"
"""The guidance scale that is looked for."""
STUDY = "${folder_name:${data}}"
ROTATION = "{rotation}"
"""Stands for the number of a rotation of the split in the paths of an evaluation."""
CONFIGS = Path(__file__).parent / "configs"


def load_config(schema: type[T], path: str | Path | None = None, overrides: Sequence[str] = (),
                values: Mapping[str, Any] | None = None) -> T:
    """Return the settings `schema` from defaults < YAML file `path` < `key=value` overrides < `values` by dotted name.

    Raises UserError that lists every unknown key, wrong type, value out of range and setting that cannot apply, with
    its source, or that names the configurations there are where `path` is none.
    """
    return load_settings(schema, None if path is None else find_config(path), overrides, values)


def find_config(path: str | Path) -> Path:
    """Return a configuration path as given or, where it is not found, that of one which comes with TarDiff.

    Raises UserError that lists those beside it if there is none.
    """
    own = CONFIGS.parent / path
    if Path(path).exists():
        return Path(path)
    if own.is_relative_to(CONFIGS) and own.is_file():
        return own
    folder = own.parent if own.parent.is_dir() and own.is_relative_to(CONFIGS) else CONFIGS
    known = sorted(f"configs/{known.relative_to(CONFIGS)}" for known in folder.rglob("*.yaml"))
    close = difflib.get_close_matches(str(path), known, n=1)
    hint = f"Did you mean '{close[0]}'?" if close else "A setting is written key=value."
    raise UserError(f"{path}: configuration file not found. {hint} TarDiff comes with:\n  " + "\n  ".join(known))


@dataclass(frozen=True)
class ExpectConfig:
    """What the dataset must look like; a mismatch stops the run before it starts. Null accepts anything."""

    length: int | None = setting(None, "Time steps L.", low=1, semantic=False)
    channels: int | None = setting(None, "Channels C.", low=1, semantic=False)
    classes: int | None = setting(None, "Classes K.", low=2, semantic=False)


@dataclass(frozen=True)
class UNetConfig:
    """The denoiser (paper, appendix 'Model Structure and Implementation Details')."""

    base_channels: int = setting(32, "Channels at full resolution; a multiple of num_heads.", low=8)
    channel_multipliers: list[int] = setting(
        [1, 2, 2], "Channels per level, as multiples of base_channels (paper: 1, 2, 4, 4, of 64).", low=1)
    num_res_blocks: int = setting(1, "Residual blocks per level (paper text: 3; released code: 2).", low=1)
    attention_downsampling: list[int] = setting([1, 2, 4], "Downsampling factors with self-attention.", low=1)
    num_heads: int = setting(4, "Attention heads.", low=1)
    dropout: float = setting(0.0, "Dropout inside residual blocks.", low=0, high=0.9)


@dataclass(frozen=True)
class DiffusionConfig:
    """Forward process and training target."""

    num_train_timesteps: int = setting(200, "Diffusion steps T.", low=2)
    noise_schedule: str = setting(
        "scaled_linear", "How noise grows: scaled_linear (as released: linear in the square root of beta) "
                         "or cosine.",
        choices=("scaled_linear", "cosine"))
    beta_start: float = setting(5e-4, "First beta of scaled_linear.", low=1e-8, high=0.999)
    beta_end: float = setting(0.1, "Last beta of scaled_linear.", low=1e-8, high=0.999)
    prediction_type: str = setting("v_prediction", "What the denoiser predicts.",
                                   choices=("epsilon", "sample", "v_prediction"))
    loss: str = setting("l2", "Distance between prediction and target.", choices=("l1", "l2"))

    def faults(self) -> Iterator[tuple[str, str]]:
        for name in ("beta_start", "beta_end"):
            if self.noise_schedule != "scaled_linear" and getattr(self, name) != getattr(DiffusionConfig, name):
                yield name, f"has no effect with diffusion.noise_schedule={self.noise_schedule}."


@dataclass(frozen=True)
class BaseTrainingConfig:
    """Optimisation of the denoiser."""

    steps: int = setting(1000, "Optimiser steps; raise it to train a finished run further.", low=1, semantic=False)
    batch_size: int = setting(128, "Series per step, over all processes.", low=1)
    learning_rate: float = setting(1e-3, "AdamW learning rate after warm-up.", low=1e-8, high=1)
    weight_decay: float = setting(0.0, "AdamW weight decay.", low=0, high=1)
    warmup_steps: int = setting(100, "Steps over which the learning rate rises linearly.", low=0)
    gradient_clip: float = setting(1.0, "Largest global gradient norm.", low=1e-6)
    ema_decay: float = setting(0.995, "Decay of the exponential moving average of the weights.", low=0, high=0.999999)
    label_dropout: float = setting(0.1, "Share of labels hidden in training; needed for cfg_scale.", low=0, high=0.9)
    log_every: int = setting(50, "Steps between logged losses.", low=1, semantic=False)
    validate_every: int = setting(250, "Steps between validation losses on fixed noise.", low=1, semantic=False)
    checkpoint_every: int = setting(250, "Steps between states from which a killed run resumes.", low=1, semantic=False)
    preview_every: int = setting(500, "Steps between real-versus-sampled figures; 0 for none.", low=0, semantic=False)
    bf16: bool = setting(False, "bfloat16 autocast (CUDA only; ignored on CPU).")
    compile: bool = setting(False, "torch.compile the denoiser (CUDA only; ignored on CPU).", semantic=False)


@dataclass(frozen=True)
class BaseConfig:
    """Stage 1: the label-conditional denoiser."""

    data: str = setting("data/simulated", "Dataset folder.", semantic=False)
    name: str = setting(STUDY, NAME_TEXT, semantic=False)
    output: str = setting("runs/${name}/base", "Run folder.", semantic=False)
    seed: int = setting(0, "Seed of initialisation and training.", low=0, high=2**63 - 1)
    device: str = setting("auto", DEVICE_TEXT, semantic=False)
    normalizer: str = setting("zscore", NORMALIZER_TEXT, choices=NORMALIZERS)
    mask: bool = setting(True, "Where the dataset has gaps and says how they were filled: model the mask with the "
                               "values, so that series have gaps of their own, filled by the same rule.")
    expect: ExpectConfig = setting(ExpectConfig, "")
    model: UNetConfig = setting(UNetConfig, "")
    diffusion: DiffusionConfig = setting(DiffusionConfig, "")
    training: BaseTrainingConfig = setting(BaseTrainingConfig, "")


@dataclass(frozen=True)
class RNNConfig:
    """GRU and LSTM classifier."""

    hidden_size: int = setting(64, "Hidden units per direction.", low=1)
    num_layers: int = setting(1, "Stacked layers.", low=1)
    bidirectional: bool = setting(True, "Read the series in both directions.")
    dropout: float = setting(0.2, "Dropout between layers and before the output.", low=0, high=0.9)


@dataclass(frozen=True)
class TimesNetConfig:
    """TimesNet classifier (Wu et al. 2023)."""

    d_model: int = setting(32, "Feature width.", low=1)
    d_ff: int = setting(64, "Width inside the inception blocks.", low=1)
    num_blocks: int = setting(2, "TimesBlocks.", low=1)
    top_k: int = setting(3, "Periods per block; at most half the series length.", low=1)
    num_kernels: int = setting(6, "Kernels per inception block.", low=1)
    dropout: float = setting(0.1, "Dropout.", low=0, high=0.9)


@dataclass(frozen=True)
class BoostingConfig:
    """Gradient boosting of trees (scikit-learn's HistGradientBoostingClassifier) on the flattened series and summaries
    of each channel. Its trees stand for the steps of the networks, of which it reads no other settings than
    training.keep and training.class_weighting."""

    trees: int = setting(
        300, "Trees per class, of which those up to the lowest log-loss on the selection half are kept.", low=1)
    learning_rate: float = setting(0.05, "Weight of each tree.", low=1e-4, high=1)
    max_leaves: int = setting(8, "Largest number of leaves of a tree.", low=2)
    min_rows: int = setting(20, "Least number of different series in a leaf.", low=1)
    l2: float = setting(1.0, "L2 penalty of the leaves, in rows.", low=0)
    feature_share: float = setting(0.3, "Share of the features, drawn anew, that a split chooses from.", low=1e-3,
                                   high=1)


@dataclass(frozen=True)
class CustomModelConfig:
    """Your own classifier."""

    import_path: str | None = setting(
        None, "'package.module:Class'; built as Class(length=L, num_channels=C, num_classes=K, **options), maps "
              "(B, L, C) float32 to logits (B, K), or (B, 1) for a binary task with a loss of your own.")
    loss_path: str | None = setting(
        None, "'package.module:function'; function(logits, y (B,) int64) returns one loss per sample (B,). "
              "Null: cross-entropy.")
    options: dict = setting({}, "Keyword arguments of the class.")


ARCHITECTURES = ("gru", "lstm", "timesnet", "boosting", "custom")


@dataclass(frozen=True)
class ClassifierModelConfig:
    """Which classifier, and its size."""

    name: str = setting("gru", "Architecture.", choices=ARCHITECTURES)
    inputs: str = setting(
        "values", "values, or values+mask: with what was observed (0 or 1) as further channels, for guides and judges "
                  "of series with masks.",
        choices=("values", "values+mask"))
    rnn: RNNConfig = setting(RNNConfig, "")
    timesnet: TimesNetConfig = setting(TimesNetConfig, "")
    boosting: BoostingConfig = setting(BoostingConfig, "")
    custom: CustomModelConfig = setting(CustomModelConfig, "")

    @property
    def reads_mask(self) -> bool:
        return self.inputs == "values+mask"

    def input_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the shape of what it reads of series of shape (L, C): that, or (L, 2C)."""
        length, channels = shape
        return length, channels * (1 + self.reads_mask)

    @property
    def section(self) -> str:
        """The section that the architecture reads."""
        return {"gru": "rnn", "lstm": "rnn"}.get(self.name, self.name)

    def without_effect(self) -> list[str]:
        """Return the sections that differ from their defaults and that the architecture does not use."""
        return [section for section in ("rnn", "timesnet", "boosting")
                if section != self.section and getattr(self, section) != getattr(ClassifierModelConfig(), section)]

    def faults(self) -> Iterator[tuple[str, str]]:
        for name, value in vars(self.custom).items():
            if self.custom.import_path is None and value != getattr(CustomModelConfig(), name):
                yield f"custom.{name}", "has no effect without model.custom.import_path='package.module:Class'."


@dataclass(frozen=True)
class ClassifierTrainingConfig:
    """Optimisation of the classifier, counted in optimiser steps: more rows are not more training.

    An exponential moving average of the weights is scored on the selection half every few steps; one of these looks
    gives the weights of the classifier.
    """

    steps: int = setting(500, "Optimiser steps.", low=1)
    batch_size: int = setting(256, "Series per step, drawn with replacement.", low=1)
    learning_rate: float = setting(2e-3, "AdamW learning rate.", low=1e-8, high=1)
    weight_decay: float = setting(1e-4, "AdamW weight decay.", low=0, high=1)
    gradient_clip: float = setting(4.0, "Largest global gradient norm.", low=1e-6)
    ema_decay: float = setting(0.95, "Decay of the exponential moving average of the weights.", low=0, high=0.999999)
    evaluate_every: int = setting(20, "Steps between two looks at the selection half.", low=1)
    keep: str = setting(
        "best", "Averaged weights that are kept: best, of the look with the lowest log-loss on the selection half, the "
                "class shares fitted there, for they may be others than those of the training rows; or last.",
        choices=("best", "last"))
    min_steps: int = setting(
        100, "No look before this step is kept, unless the training is shorter: then the last is.", low=0)
    class_weighting: str = setting(
        "none", "Weight of each class in the training loss and in the looks' log-loss; balanced is inverse frequency.",
        choices=("none", "balanced"))

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.keep == "last" and self.min_steps != ClassifierTrainingConfig().min_steps:
            yield "min_steps", "has no effect with training.keep=last."


@dataclass(frozen=True)
class ClassifierConfig:
    """Stage 2: the downstream classifier that guides."""

    data: str = setting("data/simulated", "Dataset folder.", semantic=False)
    name: str = setting(STUDY, NAME_TEXT, semantic=False)
    output: str = setting("runs/${name}/classifier", "Run folder.", semantic=False)
    seed: int = setting(0, "Seed of initialisation and training.", low=0, high=2**63 - 1)
    device: str = setting("auto", DEVICE_TEXT, semantic=False)
    normalizer: str = setting("zscore", NORMALIZER_TEXT, choices=NORMALIZERS)
    model: ClassifierModelConfig = setting(ClassifierModelConfig, "")
    training: ClassifierTrainingConfig = setting(ClassifierTrainingConfig, "")

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.model.name == "boosting":
            yield "model.name", "boosting has no gradient that could guide. It can be a judge of an evaluation."
        yield from _unused_custom_model(self.model, [self.model.name])


SUMMARY_MODELS = ("forest", "logistic")
"""A random forest and a logistic regression on summaries of each channel: members of teachers alone."""


@dataclass(frozen=True)
class TeacherConfig:
    """Stage 2: the teacher, an ensemble of classifiers whose probabilities label synthetic series."""

    data: str = setting("data/simulated", "Dataset folder.", semantic=False)
    name: str = setting(STUDY, NAME_TEXT, semantic=False)
    output: str = setting("runs/${name}/teacher", "Run folder.", semantic=False)
    seed: int = setting(0, "Seed of the members and of the folds.", low=0, high=2**63 - 1)
    device: str = setting("auto", DEVICE_TEXT, semantic=False)
    workers: int | None = setting(
        None, "Worker processes, each fitting one classifier at a time on one thread; null: one per CPU core, a single "
              "one on a GPU.", low=1, semantic=False)
    normalizer: str = setting("zscore", NORMALIZER_TEXT, choices=NORMALIZERS)
    members: list[dict[str, Any]] = setting(
        [{"model": "gru", "seeds": 1}, {"model": "boosting", "seeds": 2}, {"model": "forest", "seeds": 1},
         {"model": "logistic", "seeds": 1}],
        f"The ensemble, [{{model: NAME, seeds: NUMBER}}, ...]. NAME is one of {', '.join(ARCHITECTURES)}, "
        f"{', '.join(SUMMARY_MODELS)}; each counts alike, whatever the number of its seeds.")
    guidance_share: float = setting(
        0.0, "How much the guidance half of val counts beside the training rows, 0.5: as much as all of these. For a "
             "dataset with a target of its own, whose rows it holds.", low=0, high=0.99)
    model: ClassifierModelConfig = setting(ClassifierModelConfig, "")
    training: ClassifierTrainingConfig = setting(ClassifierTrainingConfig, "")

    def faults(self) -> Iterator[tuple[str, str]]:
        known = (*ARCHITECTURES, *SUMMARY_MODELS)
        for member in self.members:
            if member.keys() != {"model", "seeds"} or member["model"] not in known or not _is_count(member["seeds"]):
                yield "members", (f"holds {member}; expected {{model: NAME, seeds: NUMBER}}, NAME one of "
                                  f"{', '.join(known)}, and a whole number from 1 on.")
                return
        if not self.members or _has_repeats([member["model"] for member in self.members]):
            yield "members", "must hold at least one model, and each once."
        if any(member["model"] == "logistic" and member["seeds"] > 1 for member in self.members):
            yield "members", "must give logistic one seed: its fit does not depend on it."
        if self.model.name != ClassifierModelConfig.name:
            yield "model.name", "has no effect: members names the models."
        if self.model.reads_mask:
            yield "model.inputs", "is for guides and judges: a teacher reads values, which every synthetic set has."
        yield from _unused_custom_model(self.model, [member["model"] for member in self.members])


@dataclass(frozen=True)
class SamplerConfig:
    """The reverse process."""

    name: str = setting("dpm_solver_pp", "dpm_solver_pp (second order, without noise, steps in log-SNR), ddim, or ddpm "
                                         "(ancestral, the paper's Algorithm 1).",
                        choices=("ddpm", "ddim", "dpm_solver_pp"))
    num_inference_steps: int | None = setting(
        None, "Denoiser calls per series; null: as many as the sampler needs, of dpm_solver_pp 10, of ddim 50, of ddpm "
              "all training steps.", low=1)
    eta: float = setting(0.0, "Noise of ddim: 0 for none; 1 for that of ddpm, with which series made in few steps vary "
                              "less.", low=0, high=1)
    cfg_scale: float = setting(1.0, "Classifier-free guidance; 1 is the plain conditional model.", low=0)
    clip_x0: bool = setting(True, "Clip x0_pred to the training range of each channel at every step.")

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.name != "ddim" and self.eta != 0:
            yield "eta", f"is the noise of ddim and has no effect with sampler.name={self.name}."


@dataclass(frozen=True)
class GuidanceConfig:
    """How the classifier steers the reverse process."""

    objective: str = setting(
        "anchored", "What guidance climbs: influence (the paper), classifier (log p(y|x)), anchored (classifier plus "
                    "influence_weight times influence) or none.",
        choices=("none", "influence", "classifier", "anchored"))
    scale: float | str = setting(
        1.0, "Strength (the paper's w). Positive climbs the objective; 0 is the unguided sampler. auto: looked for, in "
             "at most 4 tries, so that a classifier other than the guide (the teacher, where one is given) separates "
             "the labels of 1,000 series as well as those of the selection half; 0 where it does so of unguided ones.")
    step_size: str = setting(
        "bayes", "What scale multiplies: bayes (the predicted clean series moves by the gradient times the variance "
        "left in it: on white data scale 1 is Bayes' rule for every sampler and schedule) or constant (the paper: the "
        "gradient is added to the mean of each step).",
        choices=("bayes", "constant"))
    location: str = setting("x0_pred", "Where the classifier is read: x0_pred, or x_t as in the paper's Algorithm 1.",
                            choices=("x0_pred", "x_t"))
    through_denoiser: bool = setting(False, "At x0_pred, differentiate through the denoiser as well (slower).")
    influence_weight: float = setting(0.2, "Weight of influence in the anchored objective.")
    classes: str | list[str | int] | dict[Any, float] = setting(
        "balanced", "Guidance rows behind G: all, minority, majority, balanced, a list of classes, or a mixture "
                    "{class: weight}; classes by name or number.")
    divide_by: str = setting(
        "l2_norm", "What the sum of the loss gradients is divided by to give G: train_size (paper: the number of "
                   "training rows), guidance_size (of guidance rows: their mean) or l2_norm (to unit length).",
        choices=("train_size", "guidance_size", "l2_norm"))
    unit_rms: bool = setting(False, "Scale each series' gradient to root mean square 1 over what the guide reads.")
    parameters: str = setting(
        "all", "Weights of the classifier whose training counts for influence: all, or head, those of the linear layer "
               "that gives the logits, for which J has a closed form and costs one backward pass.",
        choices=("all", "head"))
    method: str = setting("central_difference", "Computation of J: central_difference (two backward passes) or exact "
                                                "(double backward; not for cuDNN recurrent layers).",
                          choices=("central_difference", "exact"))

    @property
    def is_on(self) -> bool:
        """Whether there is anything to follow; if not, sampling is the unguided one, bit for bit."""
        return self.objective != "none" and self.scale != 0

    @property
    def uses_guidance_gradient(self) -> bool:
        """Whether G, the guidance gradient, is followed."""
        return self.objective in ("influence", "anchored")

    @property
    def uses_loss(self) -> bool:
        """Whether the loss of the guide on the series themselves is descended."""
        return self.objective in ("classifier", "anchored")

    def without_effect(self) -> list[str]:
        """Return the settings that differ from their defaults and that the objective does not use.

        They are no fault, for they may be left of a preset whose objective was changed; but they are told of.
        """
        unused = [] if self.uses_guidance_gradient else ["classes", "divide_by", "parameters", "method"]
        unused += [] if self.objective == "anchored" else ["influence_weight"]
        unused += ["scale", "step_size", "location", "through_denoiser", "unit_rms"] * (self.objective == "none")
        return [name for name in unused if getattr(self, name) != getattr(GuidanceConfig, name)]

    def faults(self) -> Iterator[tuple[str, str]]:
        if isinstance(self.scale, str) and self.scale != AUTO:
            yield "scale", f"must be a number or {AUTO}, got '{self.scale}'."
        if self.through_denoiser and self.location == "x_t":
            yield "through_denoiser", "has no effect with guidance.location=x_t."
        if self.parameters == "head" and self.method != GuidanceConfig.method:
            yield "method", "has no effect with guidance.parameters=head, whose J has a closed form."


@dataclass(frozen=True)
class GenerationConfig:
    """Stage 3: guided sampling of a synthetic dataset."""

    data: str = setting("data/simulated", "Dataset that both were trained on: its labels and its guidance half are "
                                          "used.", semantic=False)
    name: str = setting(STUDY, NAME_TEXT, semantic=False)
    base: str = setting("runs/${name}/base", "Run folder of the denoiser.", semantic=False)
    classifier: str = setting("runs/${name}/classifier", "Run folder of the classifier.", semantic=False)
    teacher: str | None = setting(
        None, "Run folder of a teacher, whose probability of each class is written beside the label of each series, as "
              "p; null: none is.", semantic=False)
    output: str = setting("runs/${name}/synthetic/guided", "Folder of the synthetic dataset.", semantic=False)
    seed: int = setting(0, "Seed of the samples; series i depends on the seed and i alone.", low=0,
                        high=2**63 - 1)
    device: str = setting("auto", DEVICE_TEXT, semantic=False)
    labels: str | list[int] | dict[Any, int] = setting("train", LABELS_TEXT, low=0)
    num_samples: int | None = setting(None, NUM_SAMPLES_TEXT, low=1)
    batch_size: int = setting(512, "Series sampled at a time: bounds memory; the unit of resuming.", low=1,
                              semantic=False)
    bf16: bool = setting(False, "bfloat16 autocast in the denoiser (CUDA only; ignored on CPU).")
    compile: bool = setting(False, "torch.compile the denoiser (CUDA only; ignored on CPU).", semantic=False)
    sampler: SamplerConfig = setting(SamplerConfig, "")
    guidance: GuidanceConfig = setting(GuidanceConfig, "")


@dataclass(frozen=True)
class BaselineConfig:
    """A baseline; each adds its own settings."""

    data: str = setting("data/simulated", "Dataset folder.", semantic=False)
    name: str = setting(STUDY, NAME_TEXT, semantic=False)
    output: str = setting("runs/${name}/baselines/baseline", "Run folder of the training.", semantic=False)
    synthetic: str | None = setting(
        None, "Folder of the synthetic dataset; null: the folder 'synthetic' of output. Another one samples a trained "
              "model again, with other settings of sampling.", semantic=False)
    seed: int = setting(0, "Seed of training.", low=0, high=2**63 - 1)
    sample_seed: int | None = setting(
        None, "Seed of the series, of which series i depends on the seed and i alone; null: that of training.",
        low=0, high=2**63 - 1, semantic=False)
    device: str = setting("auto", DEVICE_TEXT, semantic=False)
    budget: str = setting("custom", "A name for the size of the training, recorded with the steps and seconds it took.",
                          semantic=False)
    labels: str | list[int] | dict[Any, int] = setting("train", LABELS_TEXT, low=0, semantic=False)
    num_samples: int | None = setting(None, NUM_SAMPLES_TEXT, low=1, semantic=False)
    sampling_batch_size: int = setting(512, "Series sampled at a time: bounds memory; the unit of resuming.", low=1,
                                       semantic=False)
    log_every: int = setting(50, "Steps between logged losses.", low=1, semantic=False)
    checkpoint_every: int = setting(500, "Steps between states from which a killed run resumes.", low=1, semantic=False)


CONTROLS = ("guidance_rows", "guidance_weighted", "guidance_last", "target_only", "ensemble", "teacher_labels",
            "self_distillation", "jitter", "mixup", "cutmix", "class_weights")


@dataclass(frozen=True)
class EvaluationConfig:
    """Stage 4: TSTR and TSRTR against real-only training."""

    real: str = setting("data/simulated", "Real dataset folder.", semantic=False)
    name: str = setting("${folder_name:${real}}", NAME_TEXT, semantic=False)
    rotations: int = setting(
        1, "Rotations of the split whose test rows are scored together, as `tardiff run rotations=5` makes them; the "
           "paths of `real`, `synthetic` and `teacher` then hold {rotation}, for 0, 1, ... All but utility is of the "
           "first one.",
        low=1, semantic=False)
    synthetic: dict = setting(
        {"unguided": ["runs/${name}/synthetic/unguided"], "guided": ["runs/${name}/synthetic/guided"]},
        "Synthetic datasets by name: {name: [folder, ...]}, one folder per generation seed.", semantic=False)
    output: str = setting("runs/${name}/evaluation", "Folder of the tables and the cached fits.", semantic=False)
    reference: str | None = setting(
        "unguided", "Synthetic set that the others are compared with, where it is among them.", semantic=False)
    ratios: list[float] = setting([0.2, 0.4, 0.6, 0.8, 1.0], "TSRTR: synthetic rows added per real training row.",
                                  low=0.01, semantic=False)
    weights: list[float] = setting(
        [0.1, 0.25, 0.5], "TSRTR mixed: shares of a batch that are drawn from the synthetic series, the others from "
                          "real ones; the share is chosen on the selection half. [] leaves that arm out.",
        low=0.001, high=0.999, semantic=False)
    teacher: str | list[str] | None = setting(
        None, "Run folder of the teacher that labelled the synthetic series, or one for each synthetic folder of a "
              "set, for the control teacher_labels and the real rows of mixed soft arms; null: none.", semantic=False)
    seeds: int = setting(10, "Classifier seeds; seed s uses synthetic folder s modulo their number.", low=1,
                         semantic=False)
    score_on: str = setting("test", "test for results; selection to choose settings without reading test (its scores "
                                     "are optimistic: the same rows choose weights and threshold).",
                            choices=("test", "selection"), semantic=False)
    bootstrap: int = setting(500, "Bootstrap resamples of test subjects behind each interval.", low=20, semantic=False)
    device: str = setting("auto", DEVICE_TEXT, semantic=False)
    protocols: list[str] = setting(
        ["tstr", "tsrtr"], "tstr: train on synthetic series; tsrtr: on real and synthetic ones. Each beside training "
                           "on real series alone.", choices=("tstr", "tsrtr"), semantic=False)
    targets: list[str] | None = setting(
        None, "What classifiers are trained toward on synthetic series: own, their labels, or soft, the probabilities "
              "of a teacher; each is an arm of its own. null: own, and soft of the sets that have probabilities.",
        choices=("own", "soft"), semantic=False)
    workers: int | None = setting(
        None, "Worker processes for fits and metrics, each on one thread; null: one per CPU core, a single one on a "
              "GPU. Results do not depend on it.", low=1, semantic=False)
    controls: list[str] | None = setting(
        None, "Rivals of the synthetic sets, which make more of real rows alone (see tardiff/evaluation/controls.py); "
              "null: all that apply, but guidance_weighted, guidance_last and target_only: teacher_labels needs a "
              "teacher, and class_weights is TRTR itself with training.class_weighting=balanced. "
              "self_distillation and jitter together cost five fits more per seed.",
        choices=CONTROLS, semantic=False)
    ensemble_size: int = setting(2, "Classifiers in the control ensemble: a guide and a judge are two.", low=2,
                                 semantic=False)
    normalizer: str = setting("zscore", NORMALIZER_TEXT, choices=NORMALIZERS)
    judges: list[str] | None = setting(
        None, "Architectures that judge, each on the same arms and seeds and with its section of model; null: "
              "model.name alone.", choices=ARCHITECTURES, semantic=False)
    model: ClassifierModelConfig = setting(ClassifierModelConfig, "")
    training: ClassifierTrainingConfig = setting(ClassifierTrainingConfig, "")

    @property
    def judge_models(self) -> dict[str, ClassifierModelConfig]:
        """The settings of the model of each judge, by its name."""
        names = [self.model.name] if self.judges is None else self.judges
        return {name: replace(self.model, name=name) for name in names}

    @property
    def teachers(self) -> list[str]:
        """The run folders of the teachers; a single one stands for a list of one."""
        return [self.teacher] if isinstance(self.teacher, str) else self.teacher or []

    @property
    def chosen_controls(self) -> list[str]:
        """The names of the controls; where none are named, of all that have an effect."""
        if self.controls is not None:
            return self.controls
        applies = {"class_weights": self.training.class_weighting != "balanced",
                   "teacher_labels": self.teacher is not None,
                   "guidance_weighted": False, "guidance_last": False, "target_only": False}
        return [name for name in CONTROLS if applies.get(name, True)]

    def controls_of(self, judge: str) -> list[str]:
        """Return the names of those controls that this judge can be trained by: boosted trees have no steps to order
        rows in."""
        return [name for name in self.chosen_controls if (name, judge) != ("guidance_last", "boosting")]

    def faults(self) -> Iterator[tuple[str, str]]:
        for path in (self.real, *texts_in(self.synthetic), *texts_in(self.teacher)):
            if (self.rotations > 1) != (ROTATION in path):
                yield "rotations", (f"is above 1, so every path must hold {ROTATION}, and {path} does not."
                                    if self.rotations > 1 else f"must be given, since {path} holds {ROTATION}.")
        for name, what in (("judges", "at least one architecture"), ("targets", "own or soft"),
                           ("protocols", "at least one protocol")):
            chosen = getattr(self, name)
            if chosen is not None and (not chosen or _has_repeats(chosen)):
                yield name, f"must name {what}, and each once."
        yield from _unused_custom_model(self.model, self.judge_models)
        if _has_repeats(self.chosen_controls):
            yield "controls", "must name each control once."
        if self.judge_models and {*self.chosen_controls}.difference(*map(self.controls_of, self.judge_models)):
            yield "controls", "names guidance_last, and boosted trees have no steps to order rows in; leave it out."
        if "class_weights" in self.chosen_controls and self.training.class_weighting == "balanced":
            yield "controls", ("names class_weights, which with training.class_weighting=balanced is TRTR itself; "
                               "leave it out.")
        if "teacher_labels" in self.chosen_controls and self.teacher is None:
            yield "controls", "names teacher_labels, which needs the teacher, teacher=RUN."
        if self.teacher == []:
            yield "teacher", "must name at least one run folder; null for none."
        if "ensemble" not in self.chosen_controls and self.ensemble_size != EvaluationConfig.ensemble_size:
            yield "ensemble_size", "has no effect without the control ensemble."
        if "tsrtr" in self.protocols and not self.ratios and not self.weights:
            yield "ratios", "must hold at least one ratio for tsrtr, or weights one weight."
        for name in ("ratios", "weights"):
            if _has_repeats(getattr(self, name)):
                yield name, "must hold each number once."


@dataclass(frozen=True)
class ReportConfig(EvaluationConfig):
    """Utility, fidelity, privacy, influence and pictures in one report."""

    output: str = setting("runs/${name}/report", "Folder of the report, its tables and pictures, and finished results.",
                          semantic=False)
    sections: list[str] = setting(
        ["utility", "fidelity", "privacy", "influence"], "Parts to evaluate; influence where a classifier is given. "
        "Pictures are always drawn.", choices=("utility", "fidelity", "privacy", "influence"), semantic=False)
    fidelity_metrics: list[str] | None = setting(
        None, "Fidelity metrics by name (see tardiff/evaluation/fidelity.py); null: all. The trained ones and "
              "context-FID take most of the time.", semantic=False)
    repeats: int = setting(5, "Repeats of each seeded fidelity metric; repeat r uses synthetic folder r modulo their "
                              "number.", low=1, semantic=False)
    classifier: str | None = setting(None, "Run folder of the classifier that guided, for the influence part.",
                                     semantic=False)
    fine_tuned: int = setting(200, "Series to fine-tune on, one at a time, in the influence part; 0 skips that check.",
                              low=0, semantic=False)
    quick: bool = setting(
        False, "A first look in some minutes: at most 3 seeds, 200 steps, 100 resamples and 1 repeat, the largest "
               "ratio alone, unless controls are named those of one training each, no fine-tuning, and no fidelity "
               "metrics that train networks.",
        semantic=False)

    def faults(self) -> Iterator[tuple[str, str]]:
        yield from super().faults()
        if not self.sections:
            yield "sections", "must name at least one part."
        if self.sections == ["influence"] and self.classifier is None:
            yield "sections", "names influence alone, which needs the classifier that guided, classifier=RUN."


@dataclass(frozen=True)
class ExperimentConfig:
    """All four stages on one dataset."""

    data: str = setting("data/simulated", "Dataset folder.")
    name: str = setting(STUDY, NAME_TEXT)
    output: str = setting("runs/${name}", "Folder of all runs of the experiment.")
    base: str | list[str] = setting([], "Arguments of stage 1: CONFIG, or [CONFIG, key=value, ...].",
                                    arguments_of=BaseConfig)
    classifier: str | list[str] = setting([], "Arguments of stage 2, likewise.", arguments_of=ClassifierConfig)
    teacher: str | list[str] | None = setting(
        [], "Arguments of a teacher, likewise, whose probabilities are written beside the labels of all sets; those of "
            "the real rows are a control. null for none.", arguments_of=TeacherConfig)
    guidance: dict = setting({"unguided": "configs/guidance/none.yaml", "guided": "configs/guidance/anchored.yaml"},
                             "Synthetic sets to make: {name: arguments of stage 3}.")
    generation_seeds: int = setting(1, "Synthetic datasets per set, with seeds 0, 1, ..., in folders NAME-seedS; one "
                                       "alone in folder NAME.", low=1)
    train_each_seed: bool = setting(False, "Train a denoiser and a guide for each generation seed, with that seed, "
                                           "instead of one of each for all.")
    rotations: int = setting(
        1, "Rotations of the split, each with a denoiser and guides of its own, so that all rows are tested and the "
           "intervals narrow; 1 for the split as it is, else at least 3 (train, val and test).", low=1)
    evaluation: str | list[str] = setting(["quick=true"], "Arguments of stage 4, the report.",
                                          arguments_of=ReportConfig)
    device: str | None = setting(None, "Device of all stages: auto, cpu, cuda or cuda:N; null: what their "
                                       "configurations say.", semantic=False)

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.rotations == 2:
            yield "rotations", "must be 1, or at least 3: one part each to train, to validate and to test."


EXPERIMENT_TEXT = ("Arguments of an experiment, `tardiff run`: CONFIG, or [CONFIG, key=value, ...]. Its data, name and "
                   "output are set here; of its evaluation the part utility counts.")


@dataclass(frozen=True)
class MapConfig:
    """The gain map: where synthetic series help, against the number of labelled rows."""

    data: str = setting("data/simulated", "Dataset folder.")
    name: str = setting(STUDY, NAME_TEXT)
    output: str = setting("runs/map/${name}", "Folder of the map and of all its runs.")
    sizes: list[int | None] = setting(
        [100, 250, 500, 1000, 2000], "Numbers n of labelled rows, each of train and of both halves of val; null: all.",
        low=10)
    subsets: int = setting(5, "Subsets of the rows for each n, drawn by subject and stratified by label; of all rows "
                              "there is one.", low=1)
    seed: int = setting(0, "Seed of the subsets.", low=0, high=2**63 - 1)
    experiment: str | list[str] = setting([], EXPERIMENT_TEXT, arguments_of=ExperimentConfig)
    device: str | None = setting(None, "Device of all stages; null: what their configurations say.", semantic=False)
    workers: int | None = setting(
        None, "Subsets at a time; null: one per CPU core, a single one on a GPU. Each runs on one thread, so that "
              "results do not depend on it.", low=1, semantic=False)

    def faults(self) -> Iterator[tuple[str, str]]:
        if not self.sizes or _has_repeats(self.sizes):
            yield "sizes", "must hold at least one number, and each once."


@dataclass(frozen=True)
class AdviceConfig:
    """Whether synthetic series help with a dataset, in which form, from its training and validation rows alone."""

    data: str = setting("data/simulated", "Dataset folder, of which test.npz is never read.")
    name: str = setting(STUDY, NAME_TEXT)
    output: str = setting("runs/advice/${name}", "Folder of the advice and of all its runs.")
    rotations: int = setting(5, "Rotations K of train and val together: each row is tested once, by what was trained "
                                "on K - 2 of the K parts and chosen on one.", low=3)
    metric: str = setting("auprc", "What is to gain.", choices=("auroc", "auprc"))
    experiment: str | list[str] = setting(["evaluation=[seeds=3, 'ratios=[1.0]']"], EXPERIMENT_TEXT,
                                          arguments_of=ExperimentConfig)
    device: str | None = setting(None, "Device of all stages; null: what their configurations say.", semantic=False)


@dataclass(frozen=True)
class CompareConfig(ReportConfig):
    """Baselines and TarDiff, trained and sampled, beside given synthetic sets in one report."""

    synthetic: dict = setting({}, "Further synthetic datasets by name, such as TarDiff's: {name: [folder, ...]}.",
                              semantic=False)
    output: str = setting("runs/${name}/comparison", "Folder of the baselines' runs and of the report.", semantic=False)
    baselines: list[str] = setting(["all"], "Baselines to train and sample: trained ones and simple rules by name, or "
                                            "all.", semantic=False)
    configs: str | None = setting(
        None, "Folder with the configuration of each baseline, NAME.yaml; null: the one in configs/baselines with the "
              "name of the dataset's folder, where it exists, else configs/baselines itself, for the simulated cohort.",
        semantic=False)
    variants: dict = setting({"biodiffusion-scale1": ["biodiffusion", "cfg_scale=1"]},
                             "Further sets, with other settings of sampling, where their baseline is compared: "
                             "{name: [baseline, key=value, ...]}.", semantic=False)
    generation_seeds: int = setting(3, "Runs of each baseline, with seeds 0, 1, ...", low=1, semantic=False)
    experiment: str | None = setting(
        None, "Configuration of an experiment (see `tardiff run`) whose synthetic sets are compared too: TarDiff "
              "itself, trained for each seed. Of its settings base, classifier, teacher and guidance count.",
        semantic=False)

    def faults(self) -> Iterator[tuple[str, str]]:
        yield from super().faults()
        if self.model.reads_mask:
            yield "model.inputs", "needs sets with masks, and what is trained here generates none."


@dataclass(frozen=True)
class InfluenceAnalysisConfig:
    """What the guide makes of real and synthetic series: gradient norms, influence, and a check by fine-tuning."""

    real: str = setting("data/simulated", "Dataset that the classifier was trained on: its training rows, guidance "
                                          "half and selection half are used.", semantic=False)
    name: str = setting("${folder_name:${real}}", NAME_TEXT, semantic=False)
    classifier: str = setting("runs/${name}/classifier", "Run folder of the classifier.", semantic=False)
    synthetic: dict = setting(
        {"unguided": ["runs/${name}/synthetic/unguided"], "guided": ["runs/${name}/synthetic/guided"]},
        "Synthetic datasets by name: {name: [folder, ...]}; the rows of all folders of a name count as one set.",
        semantic=False)
    output: str = setting("runs/${name}/influence", "Folder of the tables, figures and finished measurements.",
                          semantic=False)
    seed: int = setting(0, "Seed of the bootstrap and of the series that are fine-tuned on.", low=0, high=2**63 - 1,
                        semantic=False)
    device: str = setting("auto", DEVICE_TEXT, semantic=False)
    bootstrap: int = setting(1000, "Bootstrap resamples of subjects behind the interval of each mean.", low=20,
                             semantic=False)
    fine_tuned: int = setting(200, "Series to fine-tune on, one at a time, spread evenly over sets and classes; each "
                                   "costs a pass over the guidance half per learning rate.", low=0, semantic=False)
    learning_rates: list[float] = setting(
        [1e-4, 1e-2, 0.1], "Rates of the single plain gradient step: at a small one the loss must fall as influence "
                           "says; larger ones show how far that reaches.", low=1e-8, high=10, semantic=False)

    def faults(self) -> Iterator[tuple[str, str]]:
        if not self.learning_rates:
            yield "learning_rates", "must hold at least one."


def _unused_custom_model(model: ClassifierModelConfig, names: Collection[str]) -> Iterator[tuple[str, str]]:
    if model.custom.import_path is not None and "custom" not in names:
        yield "model.custom.import_path", (f"has no effect with model.name={', '.join(names)}. Give model.name=custom "
                                           "as well.")


def texts_in(value: Any) -> list[str]:
    """Return all texts in nested mappings and lists."""
    if isinstance(value, (dict, list)):
        return [text for part in (value.values() if isinstance(value, dict) else value) for text in texts_in(part)]
    return [value] if isinstance(value, str) else []


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _has_repeats(values: list) -> bool:
    return len(set(values)) < len(values)
