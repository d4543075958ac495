"""Estimate lab values from archived ECGs with ECGFounder, at scale, on Ray.

Importing the package imports neither ray nor torch and does nothing.
"""

__version__ = "0.1.0"
