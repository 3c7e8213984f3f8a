"""The service a model is promoted to: read, apply, prove; locally and on KServe."""
