"""Pixels to angles and back: cameras, and what a calibration file says about them."""
