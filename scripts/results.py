"""Write RESULTS.md of the studies in docs/results; see --help."""

from tardiff.stages.studies import main

if __name__ == "__main__":
    main()
