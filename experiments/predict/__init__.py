"""The classes that a trained model predicts for image files."""
