"""Features as a space: similar cases, galleries, maps and how well classes are separated."""
