"""What the commands do. Each module is loaded by the command that needs it."""
