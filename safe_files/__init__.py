"""Files from anybody: read within bounds, rebuilt by type, written whole or not at all.

Begin at reading.py. Every other folder may use this one, and it uses none of them.
"""
