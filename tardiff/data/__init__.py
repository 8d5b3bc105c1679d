"""Datasets on disk and as frames, subject-level splits, normalisation and the simulated cohort."""
