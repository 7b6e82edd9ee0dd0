"""`hanse server watch`: a page that shows a federation to the coordinator's operator."""
