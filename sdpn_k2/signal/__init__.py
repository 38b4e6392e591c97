"""Features, augmentation and segmentation as functions and modules on batched tensors, on any device."""
