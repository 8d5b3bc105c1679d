"""What each command does, given its settings: one module a command. This layer stands on all others."""
