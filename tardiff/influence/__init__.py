"""Influence of samples on a downstream task, and its gradient."""
