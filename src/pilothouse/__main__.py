"""`python -m pilothouse` is `pilothouse`."""

from pilothouse.cli import main

main()
