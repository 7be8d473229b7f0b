"""CAMEL: which parts of an image are cancer, learnt from labels of whole images alone.

Xu et al. (2019), CAMEL: a weakly supervised learning framework for histopathology image
segmentation, ICCV, pp. 10682-10691. An *image* here is a square of a slide that has one label; an
*instance* is one square of the lattice that it is cut into.
"""
