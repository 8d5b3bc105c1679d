"""Stage 3: sample a synthetic dataset, steered by the classifier."""

from tardiff.__main__ import main

if __name__ == "__main__":
    main(command="generate")
