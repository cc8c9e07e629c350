"""Tools for records before anyone trains on them: what is wrong with them, and what a model will see of them."""
