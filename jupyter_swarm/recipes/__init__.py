"""Ready experiments, each written as a user would write it in a notebook cell."""
