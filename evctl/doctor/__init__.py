"""The preflight: this machine's checks, and those of a cluster."""
