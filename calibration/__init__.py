"""From pixels and servo pulses to angles, measured: cameras, heads, and the file for both."""
