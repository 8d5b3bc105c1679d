"""What the guide makes of real and synthetic series."""

from tardiff.cli import main

if __name__ == "__main__":
    main(command="influence")
