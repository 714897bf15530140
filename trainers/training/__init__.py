"""Training: arguments, losses, the Trainer, runs, ensembles and folds."""
