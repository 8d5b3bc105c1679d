"""What the guide makes of real and synthetic series."""

from tardiff.__main__ import main

if __name__ == "__main__":
    main(command="influence")
