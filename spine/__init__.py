"""Spine: vertebrae C1-L5 in spine films, outlined, named in anatomical order and measured."""
