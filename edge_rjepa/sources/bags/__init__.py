"""Bags of ROS 2: what robots have recorded. Begin at source.py; needs the extra `bags`."""
