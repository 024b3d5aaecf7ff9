"""Birds, classified by crops that parallel spatial transformers choose."""
