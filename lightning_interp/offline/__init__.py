"""Finished models, folders of checkpoints, several seeds: what is read and compared without a training run."""
