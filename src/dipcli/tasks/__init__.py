"""One file a subcommand: a task is a function that returns a Problem."""
