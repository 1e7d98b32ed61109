"""From photos on disk to batches on the device."""
