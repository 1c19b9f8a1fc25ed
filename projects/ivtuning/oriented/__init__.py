"""Oriented boxes (center x, center y, width, height, angle): geometry and operators in plain torch.

Boxes are detectron2's: pixels, and degrees that turn counter-clockwise on the screen.
"""
