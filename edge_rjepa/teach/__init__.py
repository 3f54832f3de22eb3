"""Names for what is seen: taught by a few looks each, asked for, and forgotten."""
