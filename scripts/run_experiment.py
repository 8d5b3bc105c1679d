"""All four stages on one dataset."""

from tardiff.cli import main

if __name__ == "__main__":
    main(command="run")
