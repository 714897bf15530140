"""Training, trust and evaluation: the only folder that composes the others."""
