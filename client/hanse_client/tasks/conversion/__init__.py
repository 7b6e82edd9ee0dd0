"""Task `conversion`: predicts whether a customer redeems a coupon of a campaign."""
