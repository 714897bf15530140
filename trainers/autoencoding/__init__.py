"""Training and evaluation of an autoencoder: losses, Trainer, reconstructions, checkerboard, report, figures."""
