"""Task `conversion`: will this customer redeem a coupon of this campaign?"""
