"""Classifiers on features that are computed once: the linear probe, the zero-shot head, and a comparison of both."""
