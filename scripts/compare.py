"""Baselines, and TarDiff, trained, sampled and evaluated in one report."""

from tardiff.__main__ import main

if __name__ == "__main__":
    main(command="compare")
