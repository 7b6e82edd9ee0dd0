"""Why the model says of a customer what it says: which past visits and facts carry a score."""
