"""`hanse store watch`: a page that shows a store's node to its operator."""
