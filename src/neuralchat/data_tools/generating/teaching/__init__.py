"""How a teacher is asked: in an order of its own, within a budget, written down before anything is made of it."""
