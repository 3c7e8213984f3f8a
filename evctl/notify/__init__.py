"""Messages about runs and drift, over the channels of a profile. It travels into pods."""
