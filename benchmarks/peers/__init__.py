"""opsd beside the programs that its users would pick instead: python -m benchmarks.peers."""
