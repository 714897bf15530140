"""How a dataset lies in a space: representations of its images, how well their classes gather there, and maps of it."""
