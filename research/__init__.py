"""Experiments on the package and their results; not part of it. Run from the checkout: ``python -m research.run``."""
