"""All four stages on one dataset."""

from tardiff.__main__ import main

if __name__ == "__main__":
    main(command="run")
