"""Simulated ICU stays: the embedded default input. These are not patient data and support no clinical conclusion.

A stay is 24 hourly readings of seven vital signs, the label is in-hospital death (one stay in ten). The story:

- A patient has a frailty, a baseline per vital and one or more stays; only the last stay can end in death.
- Each stay has a continuous latent *severity* (frailty plus acute illness). Death is decided by severity plus noise, so
  no classifier can be perfect. Severity never moves a baseline; it shows only in how the vitals move:
  *trend*: from a random onset, HR and RR climb while blood pressure falls;
  *coupling*: the baroreflex (HR answers pressure with the opposite sign) and the HR-RR coupling fade, and the
  short-term variability of HR shrinks.
- Benign decoys blur each trend taken alone: pain, fever or sedation moves HR, RR and pressure in the *same* direction,
  and passing desaturations strike anyone.
- A rare *sudden event*, independent of severity, strikes in the last hours: a lasting desaturation, or hypothermia with
  bradycardia. Most of those struck die; they are about 15 % of the deaths.

Readings carry circadian rhythm, AR(1) fluctuation and measurement noise, are rounded as a monitor would, and are
observed at a rate of their own per channel, whatever the label. Gaps are filled forward; a leading gap takes the median
of the training split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tardiff.data.format import SPLIT_NAMES, Metadata, Split
from tardiff.data.imputation import Imputation
from tardiff.data.splits import check_ratios, split_subjects
from tardiff.utils.errors import UserError

SIMULATOR_VERSION = 1
CHANNELS = ["HR", "SBP", "DBP", "MBP", "RR", "Temp", "SpO2"]
UNITS = ["bpm", "mmHg", "mmHg", "mmHg", "/min", "degC", "%"]
RATIOS = (0.6, 0.2, 0.2)
NUM_STEPS = 24
DEATH_RATE = 0.1
EVENT_RATE = 0.021  # share of the stays struck by a sudden event
REPEAT_RATE = 0.12  # share of the stays that are readmissions
MIN_STAYS, MAX_STAYS = 50, 200_000
# Per channel: share of hours observed, resolution of the monitor, lowest and highest reading.
OBSERVED = np.array([0.95, 0.88, 0.88, 0.90, 0.92, 0.28, 0.93])
RESOLUTION = np.array([1, 1, 1, 1, 1, 0.1, 1])
LOWEST = np.array([25, 45, 20, 30, 4, 32, 50])
HIGHEST = np.array([210, 240, 150, 180, 60, 41.5, 100])


@dataclass(frozen=True)
class Stays:
    """What lies behind the readings, one entry per stay (N,): the patient, the outcome and its latent causes.

    `event` is 0 for none, 1 for a sudden desaturation, 2 for hypothermia with bradycardia.
    """

    subject: np.ndarray
    y: np.ndarray
    severity: np.ndarray
    event: np.ndarray


def simulate_cohort(num_stays: int, seed: int,
                    ratios: tuple[float, float, float] = RATIOS) -> tuple[dict[str, Split], Metadata]:
    """Simulate a cohort, split by subject into train, val and test, and describe it.

    Equal arguments give equal arrays. Each split holds x (N, 24, 7) float32 without NaN, y, subject and mask.
    Raises UserError if an argument is out of range or the ratios leave a split empty.
    """
    parameters = cohort_parameters(num_stays, seed, ratios)
    generator = np.random.default_rng(seed)
    stays = draw_stays(num_stays, generator)
    readings = draw_readings(stays, generator)
    mask = _draw_mask(num_stays, generator)
    parts = split_subjects(stays.subject, stays.y, dict(zip(SPLIT_NAMES, ratios, strict=True)),
                           seed=int(generator.integers(2**31)))
    train = parts["train"]
    medians = np.nanmedian(np.where(mask[train], readings[train], np.nan), axis=(0, 1))
    imputation = Imputation("forward", medians.tolist())
    x = imputation.fill(np.where(mask, readings, np.nan)).astype(np.float32)
    splits = {name: Split(x[rows], stays.y[rows], stays.subject[rows], mask[rows]) for name, rows in parts.items()}
    cohort = {"parameters": parameters, "stays": num_stays, "subjects": len(np.unique(stays.subject)),
              "deaths": int(stays.y.sum()), "deaths_after_sudden_event": int((stays.y * (stays.event > 0)).sum())}
    meta = Metadata(name="simulated", channels=list(CHANNELS), units=list(UNITS), classes=["survived", "died"],
                    sampling_interval="1 hour", source="tardiff.data.simulator: simulated, not patient data",
                    licence="MIT", cohort=cohort, imputation=imputation, positive="died")
    return splits, meta


def cohort_parameters(num_stays: int, seed: int, ratios: tuple[float, float, float] = RATIOS) -> dict:
    """Return what decides a cohort, as recorded in `meta.json`. Raises UserError if an argument is out of range."""
    if not MIN_STAYS <= num_stays <= MAX_STAYS:
        raise UserError(f"the number of stays must be between {MIN_STAYS} and {MAX_STAYS}, got {num_stays}.")
    check_ratios(ratios, seed)
    return {"num_stays": num_stays, "seed": seed, "ratios": list(ratios), "simulator_version": SIMULATOR_VERSION}


def draw_stays(num_stays: int, generator: np.random.Generator) -> Stays:
    """Draw patients, severities, sudden events and outcomes; the tenth of the stays with the worst outlook end in
    death."""
    num_subjects = num_stays - int(REPEAT_RATE * num_stays)
    repeats = generator.integers(num_subjects, size=num_stays - num_subjects)
    subject = generator.permutation(np.concatenate([np.arange(num_subjects), repeats]))
    severity = (np.sqrt(0.3) * generator.standard_normal(num_subjects)[subject]
                + np.sqrt(0.7) * generator.standard_normal(num_stays))
    event = (generator.random(num_stays) < EVENT_RATE) * generator.integers(1, 3, size=num_stays)
    outlook = severity + 0.3 * generator.logistic(size=num_stays) + 2.5 * (event > 0)
    later = num_stays - 1 - np.unique(subject[::-1], return_index=True)[1]
    outlook[np.setdiff1d(np.arange(num_stays), later)] = -np.inf
    y = np.zeros(num_stays, dtype=np.int64)
    y[np.argsort(-outlook, kind="stable")[:round(DEATH_RATE * num_stays)]] = 1
    return Stays(subject, y, severity, event)


def draw_readings(stays: Stays, generator: np.random.Generator) -> np.ndarray:
    """Draw what a monitor shows (N, 24, 7) float64, complete, for the given stays. The outcome is not consulted."""
    num_stays = len(stays.subject)

    def baseline(mean: float, between: float, within: float) -> np.ndarray:
        """Draw a level per stay (N, 1) that the stays of one patient share in part."""
        patient = generator.standard_normal(int(stays.subject.max()) + 1)[stays.subject]
        return (mean + between * patient + within * generator.standard_normal(num_stays))[:, None]

    def fluctuation(memory: float) -> np.ndarray:
        return _autoregression(generator.standard_normal((num_stays, NUM_STEPS)), memory)

    hour = np.arange(NUM_STEPS)
    ramp = _late_ramp(generator.uniform(10, 19, (num_stays, 1)))
    clock = np.cos(2 * np.pi * (hour + generator.uniform(0, 24, (num_stays, 1))) / 24)
    rhythm = clock * generator.gamma(4, 0.25, (num_stays, 1))
    # Severity shows above a soft threshold: `decline` scales the trend, `reflex` the couplings and the variability.
    decline = (np.logaddexp(0, 2.5 * (stays.severity - 0.6)) / 2.5)[:, None] * generator.gamma(4, 0.25, (num_stays, 1))
    reflex = (1 / (1 + np.exp(2.5 * (stays.severity - 0.9))))[:, None]
    benign = _late_ramp(generator.uniform(0, 14, (num_stays, 1))) * generator.standard_normal((num_stays, 1))

    pressure_swing, breath_swing = fluctuation(0.6), fluctuation(0.5)
    pressure = baseline(82, 9, 7) + 2.5 * rhythm + 5 * pressure_swing + 6 * benign - 14 * decline * ramp
    pulse_pressure = np.maximum(baseline(52, 9, 6) + 4 * fluctuation(0.6), 20)
    lability = np.exp(0.35 * generator.standard_normal((num_stays, 1)))
    heart = (baseline(86, 10, 9) + 3 * rhythm + 7 * benign + 15 * decline * ramp + lability
             * (-3.5 * reflex * pressure_swing + 2 * reflex * breath_swing + (3 + reflex) * fluctuation(0.5)))
    breath = baseline(18.5, 2, 2) + 0.5 * rhythm + benign + 3 * decline * ramp + 1.8 * breath_swing
    warmth = baseline(36.9, 0.25, 0.35) + 0.2 * rhythm + 0.2 * benign + 0.15 * fluctuation(0.8)
    dips = (generator.random((num_stays, NUM_STEPS)) < 0.02) * generator.gamma(2, 2.5, (num_stays, NUM_STEPS))
    oxygen = baseline(97.2, 1, 1) + 0.9 * fluctuation(0.5) - dips

    fall = _late_ramp(generator.uniform(17, 21, (num_stays, 1))) * generator.gamma(8, 0.125, (num_stays, 1))
    desaturation, cold = fall * (stays.event == 1)[:, None], fall * (stays.event == 2)[:, None]
    clean = np.stack([heart - 22 * cold, pressure + 2 / 3 * pulse_pressure, pressure - pulse_pressure / 3, pressure,
                      breath, warmth - 1.6 * cold, oxygen - 9 * desaturation], axis=2)
    noise = generator.standard_normal(clean.shape) * [1, 2, 1.5, 1.5, 1, 0.1, 0.4]
    return np.clip(np.round((clean + noise) / RESOLUTION) * RESOLUTION, LOWEST, HIGHEST)


def _late_ramp(onset: np.ndarray) -> np.ndarray:
    """Rise from 0 at `onset` (N, 1) to 1 at the last hour: (N, 24)."""
    return np.clip((np.arange(NUM_STEPS) - onset) / (NUM_STEPS - 1 - onset), 0, 1)


def _autoregression(noise: np.ndarray, memory: float) -> np.ndarray:
    """Turn white noise (N, 24) into a stationary AR(1) series of unit variance."""
    series = noise.copy()
    for step in range(1, noise.shape[1]):
        series[:, step] = memory * series[:, step - 1] + np.sqrt(1 - memory**2) * noise[:, step]
    return series


def _draw_mask(num_stays: int, generator: np.random.Generator) -> np.ndarray:
    """Draw which readings are observed (N, 24, 7); the cuff gives systolic and diastolic pressure together."""
    diligence = generator.normal(0, 0.5, size=(num_stays, 1, 1))
    rate = 1 / (1 + np.exp(-np.log(OBSERVED / (1 - OBSERVED)) - diligence))
    mask = generator.random((num_stays, NUM_STEPS, len(CHANNELS))) < rate
    mask[:, :, CHANNELS.index("DBP")] = mask[:, :, CHANNELS.index("SBP")]
    return mask
