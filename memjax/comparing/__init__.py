"""Memorization scores side by side: one schema, how they agree, what they find.

It reads what training and the passes wrote (loading, runtime), and trains nothing.
"""
