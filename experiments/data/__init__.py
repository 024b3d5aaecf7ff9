"""Data sets, distortions of their images, and batches."""
