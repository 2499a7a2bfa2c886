"""Settings as people write them: `FILE|RECIPE [key=value …]`, their paths, and where every value comes from."""
