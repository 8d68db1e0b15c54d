"""``python -m experiments`` is `evolute`; torchrun needs a module."""

from experiments.cli import main

if __name__ == "__main__":
    main()
