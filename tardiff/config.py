"""The settings of every stage, as frozen dataclasses; `load_config` fills them from YAML and `key=value` arguments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tardiff.utils.settings import load_settings, setting

T = TypeVar("T")

NORMALIZER_TEXT = "Map from raw to normalised units, fitted on train; generator and guide must share it."
NORMALIZERS = ("zscore", "minmax", "ecdf", "normal_ecdf", "global_ecdf")
DEVICE_TEXT = "Where to compute: auto (cuda if there is one, else cpu), cpu, cuda or cuda:N."


def load_config(schema: type[T], path: str | Path | None = None, overrides: list[str] = ()) -> T:
    """Return the settings `schema` from defaults < YAML file `path` < `key=value` overrides.

    Raises UserError that lists every unknown key, wrong type and value out of range with its source.
    """
    return load_settings(schema, path, overrides)


@dataclass(frozen=True)
class ExpectConfig:
    """What the dataset must look like; a mismatch stops the run before it starts. Null accepts anything."""

    length: int | None = setting(None, "Time steps L.", low=1)
    channels: int | None = setting(None, "Channels C.", low=1)
    classes: int | None = setting(None, "Classes K.", low=2)


@dataclass(frozen=True)
class UNetConfig:
    """The denoiser (paper, appendix 'Model Structure and Implementation Details')."""

    base_channels: int = setting(64, "Channels at full resolution; a multiple of num_heads.", low=8)
    channel_multipliers: list[int] = setting([1, 2, 4, 4], "Channels per level, as multiples of base_channels.", low=1)
    num_res_blocks: int = setting(2, "Residual blocks per level (paper text: 3; released code: 2).", low=1)
    attention_downsampling: list[int] = setting([1, 2, 4], "Downsampling factors with self-attention.", low=1)
    num_heads: int = setting(8, "Attention heads.", low=1)
    dropout: float = setting(0.0, "Dropout inside residual blocks.", low=0, high=0.9)


@dataclass(frozen=True)
class DiffusionConfig:
    """Forward process and training target."""

    num_train_timesteps: int = setting(200, "Diffusion steps T.", low=2)
    schedule: str = setting("linear", "Noise schedule; linear is linear in the square root of beta, as released.",
                            choices=("linear", "cosine"))
    beta_start: float = setting(5e-4, "First beta of the linear schedule.", low=1e-8, high=0.999)
    beta_end: float = setting(0.1, "Last beta of the linear schedule.", low=1e-8, high=0.999)
    prediction_type: str = setting("epsilon", "What the denoiser predicts.",
                                   choices=("epsilon", "sample", "v_prediction"))
    loss: str = setting("l1", "Distance between prediction and target.", choices=("l1", "l2"))


@dataclass(frozen=True)
class BaseTrainingConfig:
    """Optimisation of the denoiser."""

    steps: int = setting(20_000, "Optimiser steps; raise it to train a finished run further.", low=1, semantic=False)
    batch_size: int = setting(256, "Series per step, over all processes.", low=1)
    learning_rate: float = setting(1e-4, "AdamW learning rate after warm-up.", low=1e-8, high=1)
    weight_decay: float = setting(0.0, "AdamW weight decay.", low=0, high=1)
    warmup_steps: int = setting(500, "Steps over which the learning rate rises linearly.", low=0)
    gradient_clip: float = setting(1.0, "Largest global gradient norm.", low=1e-6)
    ema_decay: float = setting(0.999, "Decay of the exponential moving average of the weights.", low=0, high=0.999999)
    label_dropout: float = setting(0.1, "Share of labels hidden in training; needed for cfg_scale.", low=0, high=0.9)
    log_every: int = setting(50, "Steps between logged losses.", low=1, semantic=False)
    validate_every: int = setting(500, "Steps between validation losses on fixed noise.", low=1, semantic=False)
    checkpoint_every: int = setting(500, "Steps between states from which a killed run resumes.", low=1, semantic=False)
    preview_every: int = setting(2_000, "Steps between real-versus-sampled figures; 0 for none.", low=0, semantic=False)
    bf16: bool = setting(False, "bfloat16 autocast (CUDA only; ignored on CPU).")
    compile: bool = setting(False, "torch.compile the denoiser (CUDA only; ignored on CPU).", semantic=False)


@dataclass(frozen=True)
class BaseConfig:
    """Stage 1: the label-conditional denoiser."""

    data: str = setting("data/simulated", "Dataset folder.", semantic=False)
    output: str = setting("runs/simulated/base", "Run folder.", semantic=False)
    seed: int = setting(0, "Seed of initialisation and training.", low=0, high=2**63 - 1)
    device: str = setting("auto", DEVICE_TEXT, semantic=False)
    normalizer: str = setting("zscore", NORMALIZER_TEXT, choices=NORMALIZERS)
    expect: ExpectConfig = setting(ExpectConfig, "", semantic=False)
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
class CustomModelConfig:
    """Your own classifier."""

    import_path: str | None = setting(
        None, "'package.module:Class'; built as Class(length=L, num_channels=C, num_classes=K, **options), maps "
              "(B, L, C) float32 to logits (B, K), or (B, 1) for a binary task with a loss of your own.")
    loss_path: str | None = setting(
        None, "'package.module:function'; function(logits, y (B,) int64) returns one loss per sample (B,). "
              "Null: cross-entropy.")
    options: dict = setting({}, "Keyword arguments of the class.")


@dataclass(frozen=True)
class ClassifierModelConfig:
    """Which classifier, and its size."""

    name: str = setting("gru", "Architecture.", choices=("gru", "lstm", "timesnet", "custom"))
    rnn: RNNConfig = setting(RNNConfig, "")
    timesnet: TimesNetConfig = setting(TimesNetConfig, "")
    custom: CustomModelConfig = setting(CustomModelConfig, "")


@dataclass(frozen=True)
class ClassifierTrainingConfig:
    """Optimisation of the classifier; the epoch with the best AUPRC on the selection half is kept."""

    epochs: int = setting(30, "Most epochs.", low=1)
    batch_size: int = setting(128, "Series per step.", low=1)
    learning_rate: float = setting(1e-3, "Adam learning rate.", low=1e-8, high=1)
    weight_decay: float = setting(1e-4, "AdamW weight decay.", low=0, high=1)
    gradient_clip: float = setting(4.0, "Largest global gradient norm.", low=1e-6)
    patience: int = setting(8, "Epochs without a better selection AUPRC before stopping.", low=1)
    class_weighting: str = setting("none", "Weight of each class in the training loss; balanced is inverse frequency.",
                                   choices=("none", "balanced"))


@dataclass(frozen=True)
class ClassifierConfig:
    """Stage 2: the downstream classifier that guides."""

    data: str = setting("data/simulated", "Dataset folder.", semantic=False)
    output: str = setting("runs/simulated/classifier", "Run folder.", semantic=False)
    seed: int = setting(0, "Seed of initialisation and training.", low=0, high=2**63 - 1)
    device: str = setting("auto", DEVICE_TEXT, semantic=False)
    normalizer: str = setting("zscore", NORMALIZER_TEXT, choices=NORMALIZERS)
    model: ClassifierModelConfig = setting(ClassifierModelConfig, "")
    training: ClassifierTrainingConfig = setting(ClassifierTrainingConfig, "")


@dataclass(frozen=True)
class SamplerConfig:
    """The reverse process."""

    name: str = setting("ddim", "ddpm (ancestral, the paper's Algorithm 1) or ddim.", choices=("ddpm", "ddim"))
    num_inference_steps: int | None = setting(50, "Denoiser calls per series; null for all training steps.", low=1)
    eta: float = setting(0.0, "Noise of DDIM: 0 for none; 1 for that of DDPM, with which series made in few steps vary "
                              "less.", low=0, high=1)
    cfg_scale: float = setting(1.0, "Classifier-free guidance; 1 is the plain conditional model.", low=0)
    clip_x0: bool = setting(True, "Clip x0_pred to the training range of each channel at every step.")


@dataclass(frozen=True)
class GuidanceConfig:
    """How the classifier steers the reverse process."""

    objective: str = setting(
        "classifier", "What guidance climbs: influence (the paper), classifier (log p(y|x)), anchored (classifier plus "
                      "influence_weight times influence) or none.",
        choices=("none", "influence", "classifier", "anchored"))
    scale: float = setting(0.5, "Strength (the paper's w). Positive climbs the objective; 0 is the unguided sampler.")
    schedule: str = setting(
        "posterior_variance", "Factor beside the scale: posterior_variance (the Bayes form: for DDPM the posterior "
                              "variance, for DDIM the score form, which at x0_pred and without noise is the stronger one) "
                              "or constant (the paper: scale times the gradient is added to the mean).",
        choices=("posterior_variance", "constant"))
    location: str = setting("x0_pred", "Where the classifier is read: x0_pred, or x_t as in the paper's Algorithm 1.",
                            choices=("x0_pred", "x_t"))
    through_denoiser: bool = setting(False, "At x0_pred, differentiate through the denoiser as well (slower).")
    influence_weight: float = setting(0.1, "Weight of influence in the anchored objective.")
    classes: str | list[int] | dict = setting(
        "all", "Guidance rows behind G: all, minority, majority, balanced, a list of classes, or a mixture "
               "{class: weight}.")
    normalization: str = setting(
        "l2", "Scale of G: train_size (paper: sum / training rows), guidance_size (mean) or l2 (unit norm).",
        choices=("train_size", "guidance_size", "l2"))
    gradient_norm: str = setting("raw", "raw, or unit_rms: each series' gradient is scaled to root mean square 1.",
                                 choices=("raw", "unit_rms"))
    method: str = setting("central_difference", "Computation of J: central_difference (two backward passes) or exact "
                                                "(double backward; not for cuDNN recurrent layers).",
                          choices=("central_difference", "exact"))


@dataclass(frozen=True)
class GenerationConfig:
    """Stage 3: guided sampling of a synthetic dataset."""

    base: str = setting("runs/simulated/base", "Run folder of the denoiser.", semantic=False)
    classifier: str = setting("runs/simulated/classifier", "Run folder of the classifier.", semantic=False)
    data: str = setting("data/simulated", "Dataset that both were trained on: its labels and its guidance half are "
                                          "used.", semantic=False)
    output: str = setting("runs/simulated/synthetic/guided", "Folder of the synthetic dataset.", semantic=False)
    seed: int = setting(0, "Seed of the samples; series i depends on the seed and i alone.", low=0,
                        high=2**63 - 1)
    device: str = setting("auto", DEVICE_TEXT, semantic=False)
    labels: str | list[int] = setting("train", "Label plan: train (the class counts of train), balanced, or a list of "
                                               "counts per class.", low=0)
    num_samples: int | None = setting(None, "Series to make under the plans train and balanced; null: as many as in "
                                            "train.", low=1)
    batch_size: int = setting(512, "Series per chunk: bounds memory; the unit of resuming.", low=1)
    bf16: bool = setting(False, "bfloat16 autocast in the denoiser (CUDA only; ignored on CPU).")
    compile: bool = setting(False, "torch.compile the denoiser (CUDA only; ignored on CPU).", semantic=False)
    sampler: SamplerConfig = setting(SamplerConfig, "")
    guidance: GuidanceConfig = setting(GuidanceConfig, "")


@dataclass(frozen=True)
class BaselineConfig:
    """A rival method; each adds its own settings."""

    data: str = setting("data/simulated", "Dataset folder.", semantic=False)
    output: str = setting("runs/simulated/baseline", "Run folder of the training.", semantic=False)
    synthetic: str | None = setting(None, "Folder of the synthetic dataset; null: the folder 'synthetic' of output. Another "
                                          "one samples a trained model again, with other settings of sampling.",
                                    semantic=False)
    seed: int = setting(0, "Seed of training.", low=0, high=2**63 - 1)
    sample_seed: int | None = setting(None, "Seed of the series, of which series i depends on the seed and i alone; null: that "
                                            "of training.", low=0, high=2**63 - 1, semantic=False)
    device: str = setting("auto", DEVICE_TEXT, semantic=False)
    budget: str = setting("custom", "A name for the size of the training, recorded with the steps and seconds it took.",
                          semantic=False)
    labels: str | list[int] = setting("train", "Label plan: train (the class counts of train), balanced, or a list of "
                                               "counts per class.", low=0, semantic=False)
    num_samples: int | None = setting(None, "Series to make under the plans train and balanced; null: as many as in "
                                            "train.", low=1, semantic=False)
    sampling_batch_size: int = setting(512, "Series per chunk: bounds memory; the unit of resuming.", low=1, semantic=False)
    log_every: int = setting(50, "Steps between logged losses.", low=1, semantic=False)
    checkpoint_every: int = setting(500, "Steps between states from which a killed run resumes.", low=1, semantic=False)


@dataclass(frozen=True)
class EvaluationConfig:
    """Stage 4: TSTR and TSRTR against real-only training."""

    real: str = setting("data/simulated", "Real dataset folder.", semantic=False)
    synthetic: dict = setting(
        {"unguided": ["runs/simulated/synthetic/unguided"], "guided": ["runs/simulated/synthetic/guided"]},
        "Synthetic datasets by name: {name: [folder, ...]}, one folder per generation seed.", semantic=False)
    output: str = setting("runs/simulated/evaluation", "Folder of the tables and the cached fits.", semantic=False)
    reference: str | None = setting("unguided", "Synthetic set that the others are compared with, where it is among them.",
                                    semantic=False)
    ratios: list[float] = setting([0.2, 0.4, 0.6, 0.8, 1.0], "TSRTR: synthetic rows added per real training row.",
                                  low=0.01, semantic=False)
    seeds: int = setting(3, "Classifier seeds; seed s uses synthetic folder s modulo their number.", low=1,
                         semantic=False)
    score_on: str = setting("test", "test for results; selection to choose settings without touching test (its scores "
                                     "are optimistic: the same rows choose epoch and threshold).",
                            choices=("test", "selection"), semantic=False)
    bootstrap: int = setting(500, "Bootstrap resamples of test subjects behind each interval.", low=20, semantic=False)
    device: str = setting("auto", DEVICE_TEXT, semantic=False)
    protocols: list[str] = setting(["tstr", "tsrtr"], "tstr: train on synthetic series; tsrtr: on real and synthetic ones. "
                                                      "Each beside training on real series alone.",
                                   choices=("tstr", "tsrtr"), semantic=False)
    workers: int | None = setting(None, "Worker processes for fits and metrics, each on one thread; null: one per CPU core, a "
                                        "single one on a GPU. Results do not depend on it.", low=1, semantic=False)
    normalizer: str = setting("zscore", NORMALIZER_TEXT, choices=NORMALIZERS)
    model: ClassifierModelConfig = setting(ClassifierModelConfig, "")
    training: ClassifierTrainingConfig = setting(ClassifierTrainingConfig, "")


@dataclass(frozen=True)
class ExperimentConfig:
    """All four stages on one dataset."""

    data: str = setting("data/simulated", "Dataset folder.")
    output: str = setting("runs/simulated", "Folder of all runs of the experiment.")
    base: str | list[str] = setting("configs/base/simulated.yaml", "Configuration of stage 1, or [configuration, key=value, "
                                                                   "...].")
    classifier: str | list[str] = setting("configs/classifier/gru.yaml", "Configuration of stage 2, likewise.")
    guidance: dict = setting({"unguided": "configs/guidance/none.yaml", "guided": "configs/guidance/classifier.yaml"},
                             "Synthetic sets to make: {name: configuration of stage 3}, or {name: [configuration, "
                             "key=value, ...]}.")
    generation_seeds: int = setting(1, "Synthetic datasets per set, with seeds 0, 1, ..., in folders NAME-seedS; one "
                                       "alone in folder NAME.", low=1)
    train_each_seed: bool = setting(False, "Train a denoiser and a guide for each generation seed, with that seed, instead of "
                                           "one of each for all.")
    evaluation: str = setting("configs/evaluation/default.yaml", "Configuration of stage 4.")
    device: str | None = setting(None, "Device of all stages: auto, cpu, cuda or cuda:N; null: what their configurations say.",
                                 semantic=False)
    tsrtr: bool = setting(True, "Run TSRTR as well as TSTR.")


@dataclass(frozen=True)
class ReportConfig(EvaluationConfig):
    """Utility, fidelity, privacy, influence and pictures in one report."""

    output: str = setting("runs/simulated/report", "Folder of the report, its tables and pictures, and finished results.",
                          semantic=False)
    sections: list[str] = setting(["utility", "fidelity", "privacy", "influence"], "Parts to evaluate: utility, fidelity, "
                                  "privacy, influence (where a classifier is given). Pictures are always drawn.",
                                  choices=("utility", "fidelity", "privacy", "influence"), semantic=False)
    fidelity_metrics: list[str] | None = setting(
        None, "Fidelity metrics by name (see tardiff/evaluation/fidelity.py); null: all. The trained ones and context-FID take "
              "most of the time.", semantic=False)
    repeats: int = setting(5, "Repeats of each seeded fidelity metric; repeat r uses synthetic folder r modulo their "
                              "number.", low=1, semantic=False)
    classifier: str | None = setting(None, "Run folder of the classifier that guided, for the influence part.",
                                     semantic=False)
    fine_tuned: int = setting(200, "Series to fine-tune on, one at a time, in the influence part; 0 skips that check.", low=0,
                              semantic=False)
    quick: bool = setting(False, "A first look in a minute or two: at most 3 seeds, 10 epochs, 100 resamples and 1 repeat, the "
                                 "largest ratio alone, no fine-tuning, and no fidelity metrics that train networks.",
                          semantic=False)


@dataclass(frozen=True)
class CompareConfig(ReportConfig):
    """Rival methods and TarDiff, trained and sampled, beside given synthetic sets in one report."""

    synthetic: dict = setting({}, "Further synthetic datasets by name, such as TarDiff's: {name: [folder, ...]}.",
                              semantic=False)
    output: str = setting("runs/simulated/comparison", "Folder of the methods' runs and of the report.", semantic=False)
    methods: list[str] = setting(["all"], "Baselines and rules to train, or all.", semantic=False)
    configs: str | None = setting(None, "Folder with the configuration of each baseline, NAME.yaml; null: the one in "
                                        "configs/baselines with the name of the dataset's folder, where it exists, else "
                                        "configs/baselines itself, for the simulated cohort.", semantic=False)
    variants: dict = setting({"biodiffusion-scale1": ["biodiffusion", "cfg_scale=1"]},
                             "Further sets, with other settings of sampling, where their method is compared: "
                             "{name: [method, key=value, ...]}.", semantic=False)
    generation_seeds: int = setting(3, "Runs of each method, with seeds 0, 1, ...", low=1, semantic=False)
    experiment: str | None = setting(None, "Configuration of an experiment (see run_experiment.py) whose synthetic sets are "
                                           "compared too: TarDiff itself, trained for each seed. Of the experiment's settings "
                                           "base, classifier and guidance count.", semantic=False)


@dataclass(frozen=True)
class InfluenceAnalysisConfig:
    """What the guide makes of real and synthetic series: gradient norms, influence, and a check by fine-tuning."""

    classifier: str = setting("runs/simulated/classifier", "Run folder of the classifier.", semantic=False)
    real: str = setting("data/simulated", "Dataset it was trained on: its training rows, guidance half and selection half "
                                          "are used.", semantic=False)
    synthetic: dict = setting(
        {"unguided": ["runs/simulated/synthetic/unguided"], "guided": ["runs/simulated/synthetic/guided"]},
        "Synthetic datasets by name: {name: [folder, ...]}; the rows of all folders of a name count as one set.",
        semantic=False)
    output: str = setting("runs/simulated/influence", "Folder of the tables, figures and finished measurements.",
                          semantic=False)
    seed: int = setting(0, "Seed of the bootstrap and of the series that are fine-tuned on.", low=0, high=2**63 - 1,
                        semantic=False)
    device: str = setting("auto", DEVICE_TEXT, semantic=False)
    bootstrap: int = setting(1000, "Bootstrap resamples of subjects behind the interval of each mean.", low=20, semantic=False)
    fine_tuned: int = setting(200, "Series to fine-tune on, one at a time, spread evenly over sets and classes; each costs "
                                   "a pass over the guidance half per learning rate.", low=0, semantic=False)
    learning_rates: list[float] = setting(
        [1e-4, 1e-2, 0.1], "Rates of the single plain gradient step: at a small one the loss must fall as influence says; "
                           "larger ones show how far that reaches.", low=1e-8, high=10, semantic=False)
