"""Similar cases: an index over a dataset's features, searched so that a lesion or its duplicate never finds itself."""
