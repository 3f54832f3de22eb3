"""A run: the loop that learns from what it looks at, and the folder it keeps."""
