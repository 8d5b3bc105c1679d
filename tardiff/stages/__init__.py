"""What each command does, given its settings: one module a command."""
