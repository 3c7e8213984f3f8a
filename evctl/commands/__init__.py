"""One file a verb: resolve, one use case, render."""
