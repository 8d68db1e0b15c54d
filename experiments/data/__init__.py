"""Images: sources, splits, preprocessing; kept in memory or read from disk."""
