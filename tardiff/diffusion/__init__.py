"""Noise schedule, forward and reverse process, and training of the denoiser."""
