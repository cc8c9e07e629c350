"""NeuralChat: turn a language model into a chatbot on the servers you already have."""

__version__ = "0.1.0"
