"""A fuzzing program: good inputs are damaged or made hostile, and what the package does with them is judged.

``python -m tests.fuzz --kind exports --count 300 --seed 0`` prints a table; see ``running.py`` for its columns.
Needs Linux: each case runs in a forked child of its own.
"""
