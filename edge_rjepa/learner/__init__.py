"""The network and its learning rule: Recurrent-Forward Propagation."""
