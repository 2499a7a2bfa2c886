"""What one GPU does: `python -m benchmarks.gpu`, from a folder that `make gpu-kit` packs for a machine without a network."""
