"""Decisions from readings alone, without a Trainer: which phase a run is in, whether to stop, and why."""
