"""The command line, and one file per thing a person runs."""
