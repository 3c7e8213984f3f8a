"""What an MLOps engineer owns: the pipeline over `ev_ml`: components, wiring, resources, retries, secrets, gates."""
