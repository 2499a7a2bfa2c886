"""How time and memory grow with the number of tokens and prompts: python -m benchmarks.growth."""
