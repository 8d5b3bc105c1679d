"""Samplers and the writing of synthetic datasets."""
