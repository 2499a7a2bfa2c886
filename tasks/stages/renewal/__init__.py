"""Completions that are not sampled freshly: kept while they are good enough, or sampled one iteration ahead."""
