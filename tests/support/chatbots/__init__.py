"""Chatbots and servers whose answers are scripted."""
