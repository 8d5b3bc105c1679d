"""Stage 1: train the label-conditional denoiser."""

from tardiff.__main__ import main

if __name__ == "__main__":
    main(command="train")
