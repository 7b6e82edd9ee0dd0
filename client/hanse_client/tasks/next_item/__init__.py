"""Task `next-item`: which item a customer takes next, from item ids alone."""
