"""TSTR: train on synthetic series, test on real ones (stage 4)."""

import sys

from tardiff.__main__ import main

if __name__ == "__main__":
    main(["protocols=[tstr]", *sys.argv[1:]], "evaluate")
