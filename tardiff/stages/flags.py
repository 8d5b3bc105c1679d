"""The short forms of settings that all evaluation commands take alike."""

from __future__ import annotations

from tardiff.cli import Flag, folder_flag
from tardiff.evaluation.sets import named_by_folder

EVALUATION_FLAGS = (
    folder_flag("real", "real dataset folder"),
    Flag("--synthetic", "synthetic dataset folders; NAME-seed0, NAME-seed1 are one set", named_by_folder, many=True),
    folder_flag("output", "folder of what is written"))
