"""Downstream classifiers and their training."""
