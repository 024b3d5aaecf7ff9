"""Where the images come from, and how they are distorted."""
