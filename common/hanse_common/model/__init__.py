"""The interest model: item texts, shopping histories, one transformer, two heads."""
