"""Model cards, manifests and publishing: reads JSON and files, never a model."""
