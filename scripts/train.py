"""Stage 1: train the label-conditional denoiser."""

from tardiff.cli import main

if __name__ == "__main__":
    main(command="train")
