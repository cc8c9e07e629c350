"""Every private or internal name of torch, transformers and PEFT that the package touches, one file for each library.

A release of a library may change these without notice. Nothing else in the package uses such names, so an upgrade fails
here; tests/contract/test_upstream.py has a test for each that says which name changed and how.
"""
