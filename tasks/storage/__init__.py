"""Durable, checksummed artifacts in an object store or a folder, and leases between processes."""
