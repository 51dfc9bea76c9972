"""Images and labels: prepared datasets, their splits, augmentation on the device, and batches."""
