"""What follows from the model's answers at the store: demand, migration, surprise."""
