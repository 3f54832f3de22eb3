"""ROS 2 without its installation: messages as bytes (messages.py) and what carries them.

It knows nothing of edge_rjepa. Importing this loads none of the libraries it needs.
"""
