"""The learner's inner loops, a module a device; edge_rjepa/engines picks one."""
