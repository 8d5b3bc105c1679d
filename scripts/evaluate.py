"""Everything that is measured of synthetic sets, in one report."""

from tardiff.__main__ import main

if __name__ == "__main__":
    main(command="report")
