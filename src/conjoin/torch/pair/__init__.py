"""Two halves as one model: building, joining, loading, saving."""
