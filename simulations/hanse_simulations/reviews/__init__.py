"""`hanse simulate reviews`: stars or sentiment from what customers write."""
