"""How good a model's heat maps are: each measure in a file of its own, and the table that they are written to."""
