"""2. Where we run: device, seed, precision, run folder, signals."""
