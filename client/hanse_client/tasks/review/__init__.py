"""Task `review`: stars or sentiment of the texts that customers write."""
