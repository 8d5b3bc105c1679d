"""Files, seeds, processes and logs."""
