"""A baseline: train it and write its synthetic dataset."""

from tardiff.__main__ import main

if __name__ == "__main__":
    main(command="baseline")
