"""The edges: storage, tracking, retries; no arithmetic."""
