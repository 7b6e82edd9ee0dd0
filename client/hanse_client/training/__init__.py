"""One round of private training at a store: sample, clip, add noise, step."""
