"""Slow, plain implementations of every measure, written from the formulas and not from the library.

NumPy and Python in float64: loops over labels and dimensions, label lists, exact fractions where an edge matters. A row
is one representation; labels of a row are a list, since nested sets give several; ``None`` is no label.
"""
