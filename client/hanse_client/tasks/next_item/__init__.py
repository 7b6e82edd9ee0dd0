"""Task `next-item`: predicts the next item of a customer's sequence from item ids alone."""
