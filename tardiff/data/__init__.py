"""Datasets on disk, subject-level splits, normalisation and the simulated cohort."""
