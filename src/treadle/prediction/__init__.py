"""Prediction: a model's outputs for a whole dataset, in memory or as a file."""
