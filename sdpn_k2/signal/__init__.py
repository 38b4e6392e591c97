"""Signal processing on batched tensors, on any device."""
