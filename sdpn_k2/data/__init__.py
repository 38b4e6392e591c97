"""From audio to lhotse manifests, cuts and multi-crop batches."""
