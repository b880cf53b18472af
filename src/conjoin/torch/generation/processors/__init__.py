"""What changes scores before a token is picked."""
