"""Who gets in: passwords, host and origin checks, certificates, and what a flow's process may have."""
