"""Searches of the box around an image for a point of another class."""
