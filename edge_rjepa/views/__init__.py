"""What people look at: the report, a window, the live page."""
