"""The embedded engine: a detached worker process a run over kfp.local, and a folder of plain files."""
