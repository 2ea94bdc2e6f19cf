"""Installs Detectron2 0.6, mended for current versions of Python, PyTorch, NumPy and Pillow.

Only the standard library is used here, because all this runs before anything else is installed.
"""
