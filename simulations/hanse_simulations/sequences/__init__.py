"""Published numbers: next item on research data sets, beside what papers report on them."""
