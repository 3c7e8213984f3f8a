"""Kubeflow Pipelines 2.17 as an engine: the seam to its API, ML Metadata, Kubernetes and the object store."""
