"""The parts of ``python -m trainers.score``: which files, by which model, in which processes, written how."""
