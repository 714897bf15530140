"""A finished model's folder: predictions, trust, report, provenance and the files around them."""
