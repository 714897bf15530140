"""Figures of a report, each a pure function of its numbers or predictions."""
