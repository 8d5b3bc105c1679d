"""`python -m tardiff` is the command `tardiff`."""

from tardiff.cli import main

if __name__ == "__main__":
    main()
