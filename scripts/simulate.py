"""Write a simulated ICU cohort (not patient data) as a dataset folder; see --help."""

from tardiff.stages.simulate import main

if __name__ == "__main__":
    main()
