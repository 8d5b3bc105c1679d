"""Does the synthetic data help?"""
