"""Secrets: of this machine, of a cluster, and of the model store."""
