"""What an operator does: migrations, seeds, the embedded server. Callable without the CLI."""
