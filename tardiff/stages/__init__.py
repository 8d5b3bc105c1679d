"""What each command does, given its settings: one module a command, with `run(config, dry_run)`."""
