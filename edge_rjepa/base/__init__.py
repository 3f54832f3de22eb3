"""What every room stands on: compiled kernels, files that survive, checks of values."""
