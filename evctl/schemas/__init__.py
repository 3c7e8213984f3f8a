"""The documents of `-o json`, a model each."""
