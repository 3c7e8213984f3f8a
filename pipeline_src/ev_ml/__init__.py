"""What an ML engineer owns: plain Python over files and DataFrames; no kfp, no cluster, no environment variables."""
