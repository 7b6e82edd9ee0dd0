"""What an auditor asks of stores' ledgers: are they as written, true, and within the terms?"""
