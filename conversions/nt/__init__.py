"""What the conversion of a Windows guest is made of: one subject a file; `conversions/windows.py` reads like
the list of them.
"""
