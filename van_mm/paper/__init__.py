"""The paper's results as data, and the documentation that is generated from them."""
