"""Terminals that tests read and type on."""
