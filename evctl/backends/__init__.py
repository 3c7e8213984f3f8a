"""Where runs happen: one Protocol, two engines."""
