"""Damaged and hostile files of every kind that conjoin reads: it works with them or says what is wrong, nothing else.

From the folder `tests`: `python -m fuzz KIND --seconds 60 --seed 7`; `make fuzz` runs all kinds. `runner.py` is what a
case is and how it ends, `mutators.py` how files are damaged; the other files hold the kinds.
"""
