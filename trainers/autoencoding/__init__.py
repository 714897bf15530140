"""Training and judging an autoencoder: losses, the Trainer, reconstructions, the checkerboard, report and figures."""
