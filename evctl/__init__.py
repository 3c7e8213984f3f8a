"""evctl: operate the EV battery health fault classifier on one machine and on Kubeflow."""

__version__ = "0.1.0"
