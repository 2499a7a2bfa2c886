"""Durable, checksummed artefacts in an object store or a folder, and leases between processes."""
